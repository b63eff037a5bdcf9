"""What a source says, before it is understood: a value for a setting of a command, or a problem."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.declared_options import Command, Setting, nearest
from qwenctl.settings.toml import TomlFile

Given = str | bool | list[str]

_TRUE = ("1", "on", "true", "yes", "enabled")
_FALSE = ("0", "off", "false", "no", "disabled")
_WANTED = {
    "switch": "true or false",
    "number": "a number",
    "text": "text in quotes",
    "list": "a list of texts in quotes",
}


def from_toml(setting: Setting, value: Any) -> Given:
    """What `value`, as tomllib gives it, is for `setting`. Raises QwenctlError if it is of the wrong kind."""
    match setting.kind, value:
        case "switch", bool():
            return value
        case "number", int() | float() if not isinstance(value, bool):
            return _number(value)
        case "number" | "text", str():
            return _path(setting, value)
        case "list", str():
            return [_path(setting, value)]
        case "list", list() if all(isinstance(one, str) for one in value):
            return [_path(setting, one) for one in value]
    found = "" if setting.kind == "list" and isinstance(value, list) else f", not {_kind(value)}"
    raise QwenctlError(f"{_WANTED[setting.kind]} is needed{found}")


def from_environment(setting: Setting, text: str) -> Given:
    """What `text` is for `setting`. Raises QwenctlError if it is no truth value where one is needed."""
    if setting.kind == "list":
        return [_path(setting, one) for one in text.split(os.pathsep if setting.of_paths else None)]
    if setting.kind != "switch":
        return _path(setting, text)
    if text.strip().lower() not in (*_TRUE, *_FALSE):
        raise QwenctlError(f"{text!r} is neither on nor off")
    return text.strip().lower() in _TRUE


def _path(setting: Setting, text: str) -> str:
    """A file in the home folder may be written as in a shell. Raises QwenctlError for what no command line can hold."""
    if "\0" in text:
        raise QwenctlError("text without the character NUL is needed")
    return os.path.expanduser(text) if setting.of_paths and text.startswith("~/") else text


def _number(value: float) -> str:
    try:
        return str(value)
    except ValueError as error:  # Python writes no more than 4,300 digits
        raise QwenctlError("a number of that size means nothing here") from error


def _kind(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list():
            return "a list"
        case str():
            return "text"
        case int() | float():
            return "a number"
    return "a time"


_MAX_CHARACTERS = 300


@dataclass(frozen=True)
class ResolvedValue:
    """`given` as the option's parser takes it, `parsed` as the command gets it."""

    given: Given
    parsed: Any
    origin: str


@dataclass(frozen=True)
class SettingError:
    """What is wrong, and the command that it is wrong for; None if it is for all."""

    error: QwenctlError
    command: Command | None = None


@dataclass(frozen=True)
class RawSetting:
    """A value for `setting` of `command`: from `origin`, a variable or a line of a file, under the name `label`."""

    command: Command
    setting: Setting
    value: Any
    origin: str
    label: str
    from_file: bool

    def validate(self) -> ResolvedValue | SettingError:
        """The value, checked by the option's own parser. A wrong variable is a problem of its command alone."""
        convert = from_toml if self.from_file else from_environment
        try:
            given = convert(self.setting, self.value)
            return ResolvedValue(given, self.setting.check(given), self.origin)
        except QwenctlError as error:
            what = QwenctlError(f"{self.label}: {_shortened(error.message)}", self.command.help, ExitCode.CONFIG)
            return SettingError(what, None if self.from_file else self.command)


def _shortened(message: str) -> str:
    """A message that repeats a value may be as long as the value."""
    return message if len(message) <= _MAX_CHARACTERS else f"{message[:_MAX_CHARACTERS]}…"


_SHOWN_CHARACTERS = 60
Keys = tuple[str, ...]


def settings_from_file(
    commands: Sequence[Command], file: TomlFile, refused: Collection[str] = ()
) -> Iterator[RawSetting | SettingError]:
    """The settings that `file` has; those named in `refused` it may not have."""
    if file.problem:
        yield SettingError(file.problem)
    else:
        yield from _Reader(file, {command.path: command for command in commands}, refused).top()


@dataclass(frozen=True)
class _Reader:
    file: TomlFile
    commands: Mapping[Keys, Command]
    refused: Collection[str]

    def top(self) -> Iterator[RawSetting | SettingError]:
        yield from self._twice((), self.file.values)
        for key, value in self.file.values.items():
            if (_word(key),) in self.commands:
                yield from self._table((key,), value)
        for key, value in self.file.values.items():
            if (_word(key),) not in self.commands:
                takers = [(command, found) for command in self.commands.values() if (found := command.find(key))]
                yield from self._key((key,), takers, value)

    def _table(self, keys: Keys, table: Any) -> Iterator[RawSetting | SettingError]:
        path = tuple(map(_word, keys))
        command = self.commands[path]
        if not isinstance(table, dict):
            yield self._problem(
                keys, f"'{keys[-1]}' is a command", f"[{command.name}] begins the table of its settings"
            )
            return
        yield from self._twice(keys, table)
        for key, value in table.items():
            if (*path, _word(key)) in self.commands:
                yield from self._table((*keys, key), value)
            else:
                found = command.find(key)
                yield from self._key((*keys, key), [(command, found)] if found else [], value)

    def _key(
        self, keys: Keys, takers: list[tuple[Command, Setting]], value: Any
    ) -> Iterator[RawSetting | SettingError]:
        if not takers:
            yield self._unknown(keys, value)
        elif (name := takers[0][1].name) in self.refused:
            hint = f"give --{name}, or put it into the user's file: `qwenctl config path` names it"
            yield self._problem(keys, f"'{keys[-1]}' is not taken from a file in the current folder", hint)
        else:
            place = self.file.place(keys)
            for command, setting in takers:
                yield RawSetting(command, setting, value, place, f"{place} {keys[-1]}", from_file=True)

    def _twice(self, keys: Keys, table: Mapping[str, Any]) -> Iterator[SettingError]:
        """ctx-size and ctx_size are one key for us, two for TOML."""
        first: dict[str, str] = {}
        for key in table:
            before = first.setdefault(_word(key), key)
            if before != key:
                where = self.file.place((*keys, before))
                yield self._problem(
                    (*keys, key), f"'{key}' is the same key as '{before}'", f"{where} has the other one"
                )

    def _unknown(self, keys: Keys, value: Any) -> SettingError:
        path = tuple(map(_word, keys[:-1]))
        here = [self.commands[path]] if path else list(self.commands.values())
        if any(_word(keys[-1]) in command.unsettable for command in here):
            hint = f"give --{_word(keys[-1])} when it is wanted"
            return self._problem(keys, f"'{keys[-1]}' can only be given on the command line", hint)
        kind = "table" if isinstance(value, dict) else "key"
        hint = self._belongs_elsewhere(keys) if path else ""
        return self._problem(keys, f"unknown {kind} '{_short(keys[-1])}'", hint or self._like(keys[-1], path, here))

    def _belongs_elsewhere(self, keys: Keys) -> str:
        owners = [command.name for command in self.commands.values() if command.find(keys[-1])]
        return f"'{_word(keys[-1])}' belongs under [{owners[0]}]" if owners else ""

    def _like(self, key: str, path: Keys, commands: list[Command]) -> str:
        inner = [one[-1] for one in self.commands if one[:-1] == path]
        tables = difflib.get_close_matches(_word(key)[:_SHOWN_CHARACTERS], inner, n=1)
        setting = nearest(key, [setting for command in commands for setting in command.settings])
        near = tables[0] if tables else setting.name if setting else ""
        return f"did you mean '{near}'?" if near else "`qwenctl config show` lists all keys"

    def _problem(self, keys: Keys, what: str, hint: str) -> SettingError:
        return SettingError(QwenctlError(f"{self.file.place(keys)} {what}", hint, ExitCode.CONFIG))


def _word(key: str) -> str:
    return key.replace("_", "-")


def _short(key: str) -> str:
    return key if len(key) <= _SHOWN_CHARACTERS else f"{key[:_SHOWN_CHARACTERS]}…"


_PREFIX = "QWENCTL_"


def settings_from_env(commands: Sequence[Command], environment: Mapping[str, str]) -> Iterator[RawSetting]:
    """The settings that `environment` has."""
    for own in (True, False):
        for command in commands:
            for setting in command.settings:
                for name in setting.names:
                    variable = _variable(*command.path, name) if own else _variable(name)
                    if environment.get(variable):
                        yield RawSetting(command, setting, environment[variable], variable, variable, from_file=False)


def unused_variables(environment: Mapping[str, str], used: Sequence[RawSetting]) -> list[str]:
    """The variables that look like settings and are none."""
    names = {one.origin for one in used}
    return sorted(name for name in environment if name.startswith(_PREFIX) and environment[name] and name not in names)


def _variable(*words: str) -> str:
    return _PREFIX + "_".join(words).upper().replace("-", "_")
