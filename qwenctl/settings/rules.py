"""The available settings: the options of all commands, as declared for the command line.

typer's root command comes in; `Command` values with their `Setting`s go out. Where values come from is not known here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperGroup, TyperOption

Kind = Literal["switch", "number", "text", "list"]

# What a file in the current folder may set; every option that is not listed is denied, new ones too. Such a file may
# come from anyone: it must not confirm for the user, run code, choose where a token or a conversation is sent, open a
# port, or choose a place that is written or deleted. Listed are numbers, choices, texts for the model, and files that
# are only read. Some others are not allowed in any file: they are declared with `allow_from_autoenv=False`.
ALLOWED_IN_LOCAL_FILE = frozenset(
    # where to load, and how
    "batch-size cache-type-k cache-type-v cpu-moe ctx-size device fit-target flash-attn gpu-layers gpu-memory load-mode"
    " n-cpu-moe override-tensor paging parallel ram snapshot-ram tensor-split threads ubatch-size"
    # what to answer, and how
    " chat-template-kwargs draft draft-max draft-min fps frequency-penalty image-max-tokens image-min-tokens"
    " max-frames min-p on-full predict presence-penalty prompt repeat-last-n repeat-penalty seed system system-prompt"
    " temp think think-budget top-k top-p"
    # models, and files that are only read
    " grammar hf-repo imatrix json-schema mmproj model mtp prefix quantize revision source tensor-type type vision"
    " vision-type split-max-size"
    # what is measured, tried and shown
    " color connections csv depths disk dry-run files format json kv limit lines measure n-gen n-prompt no-history"
    " no-save null offline order patience price quiet repetitions retry-errors sample select share-prefix time-limit"
    " timeout tool-timeout verbose wait watts".split()
)

# The commands that show errors in the settings must work without them.
_WITHOUT_SETTINGS = "config"


@dataclass(frozen=True)
class Setting:
    """An option of a command. `names` are its long names without dashes; the first one is shown.

    `is_path` says whether its value, or each item of a list, is a path.
    """

    option: TyperOption
    names: tuple[str, ...]
    kind: Kind
    is_path: bool

    @property
    def name(self) -> str:
        """The key in a file."""
        return self.names[0]


@dataclass(frozen=True)
class Command:
    """A command: `path` are the words that call it, `cli_only` its options that cannot be settings.

    `old_settings` are those of hidden options, the old forms of others: they are read, and nothing lists them.
    """

    path: tuple[str, ...]
    typer_command: Any
    settings: tuple[Setting, ...]
    cli_only: frozenset[str]
    old_settings: tuple[Setting, ...] = ()

    @property
    def name(self) -> str:
        """The dotted path, which is the name of its table in a file."""
        return ".".join(self.path)

    def find(self, key: str) -> Setting | None:
        """Return the setting named `key`, with hyphens or underscores; None if there is none."""
        known = (*self.settings, *self.old_settings)
        return next((setting for setting in known if hyphenate(key) in setting.names), None)


def collect_options(root: Any) -> tuple[Command, ...]:
    """Return the commands below typer's `root`, with their settings."""
    return tuple(command for command in _iter_commands(root, ()) if command.path[0] != _WITHOUT_SETTINGS)


def _iter_commands(group: Any, path: tuple[str, ...]) -> Iterator[Command]:
    for name, typer_command in group.commands.items():
        yield _command((*path, name), typer_command)
        if isinstance(typer_command, TyperGroup):
            yield from _iter_commands(typer_command, (*path, name))


def _command(path: tuple[str, ...], typer_command: Any) -> Command:
    """Describe one command. Options declared with `allow_from_autoenv=False` are for the command line only."""
    options = [option for option in typer_command.params if isinstance(option, TyperOption) and option.expose_value]
    options = [option for option in options if not option.is_eager]
    settable = [option for option in options if option.allow_from_autoenv]
    settings = tuple(_setting(option) for option in settable if not option.hidden)
    old_settings = tuple(_setting(option) for option in settable if option.hidden)
    unsettable = (name for option in options if not option.allow_from_autoenv for name in _names(option))
    return Command(path, typer_command, settings, frozenset(unsettable), old_settings)


def _setting(option: TyperOption) -> Setting:
    annotation: Any = option.type_descriptor.annotation
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    kind: Kind = "number" if inner in (int, float) else "text"
    if option.multiple or option.is_flag:
        kind = "list" if option.multiple else "switch"
    return Setting(option, _names(option), kind, inner is Path)


def _names(option: TyperOption) -> tuple[str, ...]:
    return tuple(name[2:] for name in option.opts if name.startswith("--"))


def hyphenate(key: str) -> str:
    """Return `key` as options are written, with hyphens."""
    return key.replace("_", "-")


def find_nearest(word: str, names: Iterable[str]) -> str:
    """Return the one of `names` that is most similar to `word`; "" if none is."""
    return next(iter(difflib.get_close_matches(word[:80], names, n=1)), "")
