"""Which settings available: the options of all commands, as they are declared for the command line.

typer's root command comes in; `Command` values with their `Setting`s go out. Nothing here knows where values come from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperGroup, TyperOption

Kind = Literal["switch", "number", "text", "list"]

# A file that lies in the current folder may have come with it, from anybody: it must not say yes in a person's place,
# have code run, choose where a token or a conversation is sent, or open a port to others. Some of these are not for any
# file: they are declared with `allow_from_autoenv=False`.
FORBIDDEN_IN_LOCAL_FILE = frozenset(
    {"yes", "overwrite", "force", "tools", "token", "endpoint", "rpc", "host", "plan", "allow-url"}
)

# The commands that show what is wrong with the settings do not depend on them.
_WITHOUT_SETTINGS = "config"


@dataclass(frozen=True)
class Setting:
    """An option of a command. `names` are its long names without dashes, the first of which is the one that is shown;
    `is_path` says whether its value, or each of a list, names a file.
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
    """typer's command `called`, by the words that call it, with its settings, and the options that are none.

    `old_settings` are those of hidden options, the old forms of others: they are read, and nothing lists them.
    """

    path: tuple[str, ...]
    called: Any
    settings: tuple[Setting, ...]
    unsettable: frozenset[str]
    old_settings: tuple[Setting, ...] = ()

    @property
    def name(self) -> str:
        """The words that call it, as its table in a file is named."""
        return ".".join(self.path)

    def find(self, key: str) -> Setting | None:
        """The setting that is called `key`, with hyphens or underscores."""
        known = (*self.settings, *self.old_settings)
        return next((setting for setting in known if hyphenated(key) in setting.names), None)


def collect_options(root: Any) -> tuple[Command, ...]:
    """The commands below typer's `root` with their settings."""
    return tuple(command for command in _below(root, ()) if command.path[0] != _WITHOUT_SETTINGS)


def _below(group: Any, path: tuple[str, ...]) -> Iterator[Command]:
    for name, called in group.commands.items():
        yield _command((*path, name), called)
        if isinstance(called, TyperGroup):
            yield from _below(called, (*path, name))


def _command(path: tuple[str, ...], called: Any) -> Command:
    """An option that is declared not to come from the environment comes from nowhere but the command line."""
    options = [option for option in called.params if isinstance(option, TyperOption) and option.expose_value]
    options = [option for option in options if not option.is_eager]
    settable = [option for option in options if option.allow_from_autoenv]
    settings = tuple(_setting(option) for option in settable if not option.hidden)
    old_settings = tuple(_setting(option) for option in settable if option.hidden)
    unsettable = (name for option in options if not option.allow_from_autoenv for name in _names(option))
    return Command(path, called, settings, frozenset(unsettable), old_settings)


def _setting(option: TyperOption) -> Setting:
    annotation: Any = option.type_descriptor.annotation
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    kind: Kind = "number" if inner in (int, float) else "text"
    if option.multiple or option.is_flag:
        kind = "list" if option.multiple else "switch"
    return Setting(option, _names(option), kind, inner is Path)


def _names(option: TyperOption) -> tuple[str, ...]:
    return tuple(name[2:] for name in option.opts if name.startswith("--"))


def hyphenated(key: str) -> str:
    """`key` as options are written."""
    return key.replace("_", "-")


def nearest(word: str, names: Iterable[str]) -> str:
    """The one of `names` that is most like `word`, "" if none is like it."""
    return next(iter(difflib.get_close_matches(word[:80], names, n=1)), "")
