"""Which settings there are: the options of all commands, as they are declared for the command line.

typer's root command comes in; `Command` values with their `Setting`s go out. A value is checked by the option's own
parser. Nothing here knows where values come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperGroup, TyperOption

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.usage_errors import normalize_message

Kind = Literal["switch", "number", "text", "list"]

# The commands that show what is wrong with the settings do not depend on them.
_WITHOUT_SETTINGS = "config"


@dataclass(frozen=True)
class Setting:
    """An option of a command. `field` is its name in click, `names` all its names without dashes, the first of which
    is the one that is shown; `of_paths` says whether its value, or each of a list, names a file.
    """

    field: str
    names: tuple[str, ...]
    kind: Kind
    of_paths: bool
    default: Any
    meaning: str
    metavar: str
    check: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """The key in a file."""
        return self.names[0]


@dataclass(frozen=True)
class Command:
    """A command, by the words that call it, with its settings, and the names of options that are none."""

    path: tuple[str, ...]
    settings: tuple[Setting, ...]
    unsettable: frozenset[str]

    @property
    def name(self) -> str:
        """The words that call it, as its table in a file is named."""
        return ".".join(self.path)

    @property
    def help(self) -> str:
        """The command line that lists its options."""
        return f"qwenctl {' '.join(self.path)} --help"

    def find(self, key: str) -> Setting | None:
        """The setting that is called `key`, with hyphens or underscores."""
        wanted = key.replace("_", "-")
        return next((setting for setting in self.settings if wanted in setting.names), None)


def configurable_commands(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below typer's `root` that has settings, with the words that call it."""
    yield from (pair for pair in _below(root, ()) if pair[0][0] != _WITHOUT_SETTINGS)


def collect_options(root: Any) -> tuple[Command, ...]:
    """The commands below typer's `root` with their settings."""
    return tuple(_command(path, command) for path, command in configurable_commands(root))


def _below(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, TyperGroup):
            yield from _below(command, (*path, name))


def _command(path: tuple[str, ...], command: Any) -> Command:
    """An option that is declared not to come from the environment comes from nowhere but the command line."""
    options = [option for option in command.params if isinstance(option, TyperOption) and option.expose_value]
    shown = [option for option in options if not option.is_eager and not option.hidden]
    settings = tuple(_setting(command, option) for option in shown if option.allow_from_autoenv)
    others = (name for option in shown if not option.allow_from_autoenv for name in option.opts)
    return Command(path, settings, frozenset(name[2:] for name in others if name.startswith("--")))


def _setting(command: Any, option: TyperOption) -> Setting:
    long = [name[2:] for name in option.opts if name.startswith("--")]
    kind, of_paths = _kind(option)
    return Setting(
        field=option.name,
        names=tuple(long or [option.name.replace("_", "-")]),
        kind=kind,
        of_paths=of_paths,
        default=option.default,
        meaning=option.help or "",
        metavar=option.metavar or "",
        check=lambda value: _checked(command, option, value),
    )


def _kind(option: TyperOption) -> tuple[Kind, bool]:
    annotation: Any = option.type_descriptor.annotation
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    kind: Kind = "number" if inner in (int, float) else "text"
    if option.multiple:
        kind = "list"
    elif option.is_flag:
        kind = "switch"
    return kind, inner is Path


def _checked(command: Any, option: TyperOption, value: Any) -> Any:
    """What the command gets for `value`. Raises QwenctlError with typer's reason."""
    try:
        return option.process_value(typer.Context(command), value)
    except typer.BadParameter as error:
        raise QwenctlError(normalize_message(error.message), code=ExitCode.CONFIG) from error


def nearest(key: str, settings: Sequence[Setting]) -> Setting | None:
    """The setting with the name that is most like `key`, if one is like it."""
    import difflib

    by_name = {name: setting for setting in settings for name in setting.names}
    wanted = re.sub("_", "-", key.lower())[:80]
    near = difflib.get_close_matches(wanted, by_name, n=1)
    return by_name[near[0]] if near else None
