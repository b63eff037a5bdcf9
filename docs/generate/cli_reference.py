"""`docs/reference/cli.md`: every command with its usage, arguments, options and examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .command_line import CommandHelp, ParameterHelp
from .markdown import HEAD, escape

_INTRO = """\
# Command line

Every command takes `--help`. Every option can also be set by a variable of the environment or in a TOML file; see
[Settings](../guides/settings.md). Failures are one line on standard error and one of the [exit codes](exit-codes.md).
With `--json`, standard output holds one JSON value; its fields are in [JSON output](json-output.md).
"""


def cli_page(commands: Sequence[CommandHelp]) -> str:
    """The page."""
    return HEAD + _INTRO + "".join(f"\n{_section(command)}" for command in commands)


def _section(command: CommandHelp) -> str:
    level = "#" * (2 + max(0, len(command.path) - 1))
    return "\n".join([f"{level} {command.name}", "", *_body(command)])


def _body(command: CommandHelp) -> Iterator[str]:
    yield from (f"{escape(paragraph)}\n" for paragraph in command.paragraphs)
    yield f"```text\n{command.usage}\n```\n"
    if command.subcommands:
        anchor = command.name.replace(" ", "-")
        yield "**Commands**\n"
        yield "".join(
            f"- [`{one.names}`](#{anchor}-{one.names}): {escape(one.meaning)}\n" for one in command.subcommands
        )
    if command.arguments:
        yield "**Arguments**\n"
        yield _list(command.arguments)
    for title, options in command.options:
        yield f"**{title}**\n"
        yield _list(options)
    if command.examples:
        lines = "\n".join(command.examples)
        yield f"**Examples**\n\n```sh\n{lines}\n```\n"


def _list(parameters: Sequence[ParameterHelp]) -> str:
    return "".join(f"- `{one.names}`: {escape(one.meaning)}{_note(one)}\n" for one in parameters)


def _note(one: ParameterHelp) -> str:
    return f" ({escape(one.note)})" if one.note else ""
