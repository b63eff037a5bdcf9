"""The value of each setting that is not on the command line, where it comes from, and what is wrong.

The environment comes before `./qwenctl.toml`, and that before the user's file; in each of them a value for one command
comes before one for all. Declared commands, files and an environment come in, `Settings` go out;
nothing is read and nothing is raised here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.rules import FORBIDDEN_IN_LOCAL_FILE, Command, Kind, Setting, hyphenated, nearest
from qwenctl.settings.toml import TomlFile
from qwenctl.settings.usage_errors import normalize_message

Keys = tuple[str, ...]
Given = str | bool | list[str]

_PREFIX = "QWENCTL_"
_SWITCH = dict.fromkeys(("1", "on", "true", "yes", "enabled"), True)
_SWITCH |= dict.fromkeys(("0", "off", "false", "no", "disabled"), False)
# What a file has for an option of each kind: in words, and the types that tomllib makes of it.
_WANTED: dict[Kind, tuple[str, tuple[type, ...]]] = {
    "switch": ("true or false", (bool,)),
    "number": ("a number", (int, float, str)),
    "text": ("text in quotes", (str,)),
    "list": ("a list of texts in quotes", (str,)),
}
_TYPES = {dict: "a table", list: "a list", str: "text", int: "a number", float: "a number"}
# A message that repeats a key or a value may be as long as that, and a hint for each of many wrong keys takes its time.
_MAX_KEY, _MAX_MESSAGE, _MAX_WRONG_KEYS = 60, 300, 20


@dataclass(frozen=True)
class SettingError:
    """What is wrong, and the words that call the command that it is wrong for; None if it is for all."""

    error: QwenctlError
    path: Keys | None = None


@dataclass(frozen=True)
class RawSetting:
    """A value for `setting` of `command`, not checked; `origin` is a variable, or the line of a file with `key`."""

    command: Command
    setting: Setting
    value: Any
    origin: str
    key: str = ""


@dataclass(frozen=True)
class ResolvedValue:
    """A value as the option's parser takes it, that it has accepted; `origin` is a variable, or a line of a file."""

    given: Given
    origin: str


@dataclass(frozen=True)
class Settings:
    """Values by path of the command and name of the option in click; problems; and variables that nothing reads."""

    values: Mapping[tuple[Keys, str], ResolvedValue]
    problems: tuple[SettingError, ...]
    unused: tuple[str, ...]

    def defaults(self, path: Keys) -> dict[str, Any]:
        """click's `default_map` of the command `path`."""
        return {name: value.given for (command, name), value in self.values.items() if command == path}


def resolve(
    commands: Sequence[Command], folder_file: TomlFile, user_file: TomlFile, environment: Mapping[str, str]
) -> Settings:
    """Bring the sources together; the first that has a right value for a setting gives it."""
    variables = list(_from_environment(commands, environment))
    in_folder = _from_file(commands, folder_file, FORBIDDEN_IN_LOCAL_FILE)
    values: dict[tuple[Keys, str], ResolvedValue] = {}
    problems: list[SettingError] = []
    for item in (*variables, *in_folder, *_from_file(commands, user_file)):
        if isinstance(item, SettingError):
            problems.append(item)
            continue
        try:
            value = ResolvedValue(_checked(item), item.origin)
            values.setdefault((item.command.path, item.setting.option.name), value)
        except QwenctlError as error:
            problems.append(SettingError(error, None if item.key else item.command.path))
    names = {variable.origin for variable in variables}
    unused = (name for name in environment if name.startswith(_PREFIX) and environment[name] and name not in names)
    return Settings(values, tuple(problems), tuple(sorted(unused)))


# ------------------------------------------------------------------ what the sources say


def _from_environment(commands: Sequence[Command], environment: Mapping[str, str]) -> Iterator[RawSetting]:
    for is_shared in (False, True):
        for command in commands:
            for setting in (*command.settings, *command.old_settings):
                for name in setting.names:
                    words = (name,) if is_shared else (*command.path, name)
                    variable = _PREFIX + "_".join(words).upper().replace("-", "_")
                    if text := environment.get(variable):
                        yield RawSetting(command, setting, text, variable)


def _from_file(
    commands: Sequence[Command], file: TomlFile, forbidden: frozenset[str] = frozenset()
) -> Iterator[RawSetting | SettingError]:
    """What `file` says, up to its 20th wrong key; it may not have the settings that are named in `forbidden`."""
    if file.problem:
        yield SettingError(file.problem)
    by_path = {command.path: command for command in commands}
    first: dict[Keys, Keys] = {}
    wrong_keys = 0
    for keys, value in sorted(_entries(by_path, file.values), key=lambda entry: len(entry[0]) == 1):
        *path, key = map(hyphenated, keys)
        known = [by_path[tuple(path)]] if path else commands
        targets = [(command, setting) for command in known if (setting := command.find(key))]
        place, same = file.place(keys), first.setdefault((*path, key), keys)
        what, hint = _wrong_key(by_path, keys, value, forbidden)
        if same != keys and not what:  # ctx-size and ctx_size are one key for us, two for TOML
            what, hint = f"'{keys[-1]}' is the same key as '{same[-1]}'", f"{file.place(same)} has the other one"
        if not what:
            yield from (RawSetting(*target, value, place, keys[-1]) for target in targets)
            continue
        yield SettingError(QwenctlError(f"{place} {what}", hint, ExitCode.CONFIG))
        wrong_keys += 1
        if wrong_keys == _MAX_WRONG_KEYS:
            return


def _entries(commands: Collection[Keys], table: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Path and value of each key, but for those of the tables of `commands`."""
    for key, value in table.items():
        keys = (*above, key)
        if isinstance(value, dict) and tuple(map(hyphenated, keys)) in commands:
            yield from _entries(commands, value, keys)
        else:
            yield keys, value


def _wrong_key(commands: Mapping[Keys, Command], keys: Keys, value: Any, forbidden: frozenset[str]) -> tuple[str, str]:
    """What is wrong with a key of a file, "" if nothing is, and a hint."""
    *path, key = map(hyphenated, keys)
    known = [commands[tuple(path)]] if path else list(commands.values())
    found = {name for command in known if (setting := command.find(key)) for name in setting.names}
    shown = keys[-1] if len(key) <= _MAX_KEY else f"{keys[-1][:_MAX_KEY]}…"
    if (*path, key) in commands:
        return f"'{shown}' is a command", f"[{'.'.join((*path, key))}] starts the table of its settings"
    if matches := found & forbidden:
        hint = f"use --{min(matches)}, or set it in the user's file (see `qwenctl config path`)"
        return f"'{shown}' is not allowed in a file in the current folder", hint
    if found:
        return "", ""
    if any(key in command.unsettable for command in known):
        return f"'{shown}' can only be given on the command line", f"give --{key} when it is wanted"
    what = f"unknown {'table' if isinstance(value, dict) else 'key'} '{shown}'"
    owners = [command.name for command in commands.values() if path and command.find(key)]
    if owners:
        return what, f"'{key}' belongs under [{owners[0]}]"
    names = {inner[-1]: inner[-1] for inner in commands if inner[:-1] == tuple(path)}
    names |= {name: setting.name for command in known for setting in command.settings for name in setting.names}
    near = names.get(nearest(key.lower(), names))
    return what, f"did you mean '{near}'?" if near else "`qwenctl config show` lists all keys"


# ------------------------------------------------------------------ values


def _checked(raw: RawSetting) -> Given:
    """The value as the option's parser takes it. Raises QwenctlError with that parser's message and the place."""
    try:
        given = _from_toml(raw.setting, raw.value) if raw.key else _from_text(raw.setting, raw.value)
        raw.setting.option.process_value(typer.Context(raw.command.called), given)
    except (QwenctlError, typer.BadParameter) as error:
        message = normalize_message(error.message) if isinstance(error, typer.BadParameter) else error.message
        short = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"
        label, hint = f"{raw.origin} {raw.key}".rstrip(), f"qwenctl {' '.join(raw.command.path)} --help"
        raise QwenctlError(f"{label}: {short}", hint, ExitCode.CONFIG) from error
    return given


def _from_toml(setting: Setting, value: Any) -> Given:
    """What `value`, as tomllib gives it, is for `setting`. Raises QwenctlError if it is of the wrong kind."""
    wanted, types = _WANTED[setting.kind]
    values = value if setting.kind == "list" and isinstance(value, list) else [value]
    if any(type(one) not in types for one in values):
        kind = str(value).lower() if isinstance(value, bool) else _TYPES.get(type(value), "a time")
        raise QwenctlError(f"{wanted} is needed" if values is value else f"{wanted} is needed, not {kind}")
    if isinstance(value, bool):
        return value
    try:
        texts = [_expanded(setting, str(one)) for one in values]
    except ValueError as error:  # Python writes no more than 4,300 digits
        raise QwenctlError("the number is too large") from error
    return texts if setting.kind == "list" else texts[0]


def _from_text(setting: Setting, text: str) -> Given:
    """What a variable says for `setting`. Raises QwenctlError if it is no truth value where one is needed."""
    if setting.kind == "list":
        return [_expanded(setting, one) for one in text.split(os.pathsep if setting.is_path else None)]
    if setting.kind != "switch":
        return _expanded(setting, text)
    if text.strip().lower() not in _SWITCH:
        raise QwenctlError(f"{text!r} is neither on nor off")
    return _SWITCH[text.strip().lower()]


def _expanded(setting: Setting, text: str) -> str:
    """A file in the home folder may be written as in a shell. Raises QwenctlError for what no command line can hold."""
    if "\0" in text:
        raise QwenctlError("text without the character NUL is needed")
    return os.path.expanduser(text) if setting.is_path and text.startswith("~/") else text
