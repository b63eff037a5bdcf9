"""Help pages: options under headings, two examples at the end, as wide as the terminal.

typer prints headings only through rich, whose import takes longer than everything else on a help page; the command
classes here print them with typer's own plain formatter. A command with its options comes in, text goes out.
"""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from qwenctl.commands.options.convert_values import convert_plain_value
from qwenctl.commands.options.examples import EXAMPLES
from qwenctl.commands.options.given import refuse_empty_words
from qwenctl.files.pasted_paths import typed_path

# The long names of options by heading, in page order. Commands with few options have a single list.
HEADINGS = {
    "Model": "model hf-repo revision type tensor-type imatrix mtp vision vision-type quantize source locked mmproj",
    "Input": "lines null files csv prompt system limit sample",
    "Memory and devices": "ctx-size threads gpu-layers n-cpu-moe cpu-moe override-tensor fit-target tensor-split device"
    " rpc paging plan gpu-memory ram parallel share-prefix",
    "Measurement": "n-prompt n-gen depths repetitions price watts time-limit kv forget",
    "Sampling": "predict temp top-k top-p min-p presence-penalty frequency-penalty repeat-penalty repeat-last-n seed"
    " json-schema grammar think think-budget",
    "Conversation": "system-prompt image resume prefix save-as no-save on-full tools tool-timeout yes",
    "Download": "to spool repair offline wait patience connections",
    "Servers": "endpoint api-key timeout",
    "Output": "output split-max-size format select keep order plot svg json verbose color quiet dry-run overwrite"
    " force-resume retry-errors help",
    "Advanced": "batch-size ubatch-size cache-type-k cache-type-v flash-attn load-mode snapshot-ram draft draft-max"
    " draft-min image-min-tokens image-max-tokens fps max-frames allow-url allow-private-url no-history"
    " chat-template chat-template-kwargs",
}
# Exceptions: options that one command has under another heading.
OTHERS = {("batch", "prefix"): "Input", ("batch", "patience"): "Servers", ("pull", "yes"): "Download"}
_MAX_WITHOUT_HEADINGS = 12  # commands with no more options have no headings
# Former names of options: they still work, but no page shows them.
OLD_NAMES = {"save-as": ("--keep",), "share-prefix": ("--share", "--no-share")}


def heading_of(command: str, option: str) -> str:
    """The heading of an option, by its first long name without dashes; "" if it has none."""
    named = (heading for heading, names in HEADINGS.items() if option in names.split())
    return OTHERS.get((command, option)) or next(named, "")


def long_name(option: Any) -> str:
    """The first long name of a typer option, without dashes."""
    return str(next((name for name in option.opts if name.startswith("--")), option.opts[0])).lstrip("-")


def old_names(option: Any) -> tuple[str, ...]:
    """The former names of a parameter, which no page shows."""
    return OLD_NAMES.get(long_name(option), ()) if option.param_type_name == "option" else ()


# The metavars of texts that may be paths.
_PATHS = frozenset("FILE FILE.svg FILE|NAME DIR IN OUT SRC MODEL".split())


class _Page:
    """The parts of a help page that commands and command groups share."""

    def get_help_option(self, context: Any) -> Any:
        """The option `--help`, which typer makes when a command is parsed."""
        option = super().get_help_option(context)  # type: ignore[misc] # of the class that this is mixed into
        if option is not None:
            convert_plain_value(option)
        return option

    def get_help(self, context: Any) -> str:
        """The text of the page, as wide as the terminal."""
        context.max_content_width = shutil.get_terminal_size().columns
        return super().get_help(context)  # type: ignore[misc,no-any-return] # of the class that this is mixed into

    def format_options(self, context: Any, formatter: Any) -> None:
        """Write the arguments, then the options by heading."""
        command: Any = self
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{heading: [] for heading in HEADINGS}}
        options = [one for one in command.get_params(context) if one.param_type_name == "option" and not one.hidden]
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is None:
                continue
            heading = "Arguments"
            if parameter.param_type_name == "option":
                heading = (
                    heading_of(str(context.info_name), long_name(parameter))
                    if len(options) > _MAX_WITHOUT_HEADINGS
                    else ""
                )
            rows.setdefault(heading or "Options", []).append((_current_names(parameter, record[0]), record[1]))
        for heading, found in rows.items():
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)

    def format_epilog(self, context: Any, formatter: Any) -> None:
        """Write the examples."""
        path = context.command_path.partition(" ")[2]
        if path in EXAMPLES:
            with formatter.section("Examples"):
                for what, line in EXAMPLES[path]:
                    formatter.write("".join(f"  {text}\n" for text in textwrap.wrap(f"# {what}", formatter.width - 2)))
                    formatter.write("".join(f"  {text}\n" for text in _command_lines(line, formatter.width - 2)))

    def shell_complete(self, context: Any, incomplete: str) -> list[Any]:
        """The possible completions, without former names of options."""
        command: Any = self
        hidden = {name for option in command.get_params(context) for name in old_names(option)}
        found = super().shell_complete(context, incomplete)  # type: ignore[misc] # of the class that this is mixed into
        return [item for item in found if item.value not in hidden]


class HelpCommand(_Page, TyperCommand):
    """A command with this kind of help page, which takes no empty text for an option or argument.

    Its paths may be given as file managers and terminals paste them.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args` into `ctx`, for click; return what is left of them. Raises QwenctlError for an empty one."""
        if "" in args or any(word.endswith("=") or word.isspace() for word in args):
            words, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            refuse_empty_words(self.get_params(ctx), words)
        left: list[str] = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            self._read_pasted_paths(ctx.params)
        return left

    def _read_pasted_paths(self, values: dict[str, Any]) -> None:
        """Replace the paths among `values`, by parameter, by the paths that are meant."""
        for parameter in self.params:
            given = values.get(parameter.name)
            if isinstance(given, (list, tuple)) and parameter.metavar in _PATHS:
                values[parameter.name] = type(given)(map(typed_path, given))
            elif isinstance(given, Path) or (isinstance(given, str) and parameter.metavar in _PATHS):
                meant = typed_path(str(given))
                values[parameter.name] = given if meant == str(given) else type(given)(meant)


class HelpGroup(_Page, TyperGroup):
    """A command group with this kind of help page; summaries of its commands are not shortened."""

    def format_options(self, context: Any, formatter: Any) -> None:
        """Write the commands, then what every page has."""
        commands = [(name, one) for name, one in self.commands.items() if not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, (one.short_help or one.help or "").split("\n\n")[0]) for name, one in commands])
        super().format_options(context, formatter)


def _current_names(parameter: Any, names: str) -> str:
    """The names of a parameter without its former ones."""
    for name in old_names(parameter):
        names = names.replace(f", {name}", "")
    return names


def _command_lines(line: str, width: int) -> list[str]:
    """A command line, wrapped with backslashes where it is too long."""
    lines = textwrap.wrap(line, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [f"{one} \\" for one in lines[:-1]] + lines[-1:]
