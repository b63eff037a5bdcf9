"""Resolves the settings that are not on the command line: values, their origins, and errors.

The environment wins over `./qwenctl.toml`, and that over the user's file; in each of them a value for one command wins
over one for all. Commands, parsed files and an environment come in, `Settings` go out. No file is read here, and errors
are returned, not raised.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.rules import ALLOWED_IN_LOCAL_FILE, Command, Kind, Setting, find_nearest, hyphenate
from qwenctl.settings.toml import TomlFile
from qwenctl.settings.usage_errors import normalize_message

Keys = tuple[str, ...]
OptionValue = str | bool | list[str]

_PREFIX = "QWENCTL_"
_CONSTRAINTS = ("grammar", "json_schema")
_SWITCH = dict.fromkeys(("1", "on", "true", "yes", "enabled"), True)
_SWITCH |= dict.fromkeys(("0", "off", "false", "no", "disabled"), False)
# What a file must have for an option of each kind: as text for messages, and the types that tomllib returns.
_EXPECTED: dict[Kind, tuple[str, tuple[type, ...]]] = {
    "switch": ("true or false", (bool,)),
    "number": ("a number", (int, float, str)),
    "text": ("text in quotes", (str,)),
    "list": ("a list of texts in quotes", (str,)),
}
_TYPES = {dict: "a table", list: "a list", str: "text", int: "a number", float: "a number"}
# Keys and values may be long, and each wrong key costs a search for similar names: messages are limited.
_MAX_KEY, _MAX_MESSAGE, _MAX_WRONG_KEYS = 60, 300, 20


@dataclass(frozen=True)
class SettingError:
    """An error, and the path of the command that it concerns; None if it concerns all."""

    error: QwenctlError
    path: Keys | None = None


@dataclass(frozen=True)
class RawSetting:
    """A value for `setting` of `command`, not validated. `origin` is a variable, or FILE:LINE; then `key` is set."""

    command: Command
    setting: Setting
    value: Any
    origin: str
    key: str = ""


@dataclass(frozen=True)
class ResolvedValue:
    """A value in the form that click parses, and accepts. `origin` is a variable, or FILE:LINE."""

    value: OptionValue
    origin: str


@dataclass(frozen=True)
class Settings:
    """Values by (path of the command, name of the option in click); errors; and variables that no option reads."""

    values: Mapping[tuple[Keys, str], ResolvedValue]
    problems: tuple[SettingError, ...]
    unused: tuple[str, ...]

    def defaults(self, path: Keys) -> dict[str, Any]:
        """Return the values for the command `path`, by name of the option: click's `default_map`."""
        return {name: value.value for (command, name), value in self.values.items() if command == path}


def resolve(
    commands: Sequence[Command], folder_file: TomlFile, user_file: TomlFile, environment: Mapping[str, str]
) -> Settings:
    """Combine the sources: the first one with a valid value for a setting wins. Errors are collected."""
    variables = list(_settings_from_env(commands, environment))
    in_folder = _settings_from_file(commands, folder_file, ALLOWED_IN_LOCAL_FILE)
    values: dict[tuple[Keys, str], ResolvedValue] = {}
    problems: list[SettingError] = []
    for item in (*variables, *in_folder, *_settings_from_file(commands, user_file)):
        if isinstance(item, SettingError):
            problems.append(item)
            continue
        try:
            value = ResolvedValue(_validate(item), item.origin)
            # Sources come in order of priority, so the first valid value of a setting stays.
            values.setdefault((item.command.path, item.setting.option.name), value)
        except QwenctlError as error:
            problems.append(SettingError(error, None if item.key else item.command.path))
    names = {variable.origin for variable in variables}
    unused = (name for name in environment if name.startswith(_PREFIX) and environment[name] and name not in names)
    return Settings(values, tuple(problems), tuple(sorted(unused)))


# ------------------------------------------------------------------ sources


def _settings_from_env(commands: Sequence[Command], environment: Mapping[str, str]) -> Iterator[RawSetting]:
    for is_shared in (False, True):
        for command in commands:
            for setting in (*command.settings, *command.old_settings):
                for name in setting.names:
                    words = (name,) if is_shared else (*command.path, name)
                    variable = _PREFIX + "_".join(words).upper().replace("-", "_")
                    text = environment.get(variable)
                    # An empty variable is one that is not set, but no constraint of an answer is dropped for that.
                    if text or (text is not None and setting.option.name in _CONSTRAINTS):
                        yield RawSetting(command, setting, text, variable)


def _settings_from_file(
    commands: Sequence[Command], file: TomlFile, allowed: frozenset[str] | None = None
) -> Iterator[RawSetting | SettingError]:
    """Yield the settings and errors in `file`, up to the 20th wrong key.

    Settings that are not in `allowed`, if that is given, are errors, and so is a key that one of them shares.
    """
    if file.problem:
        yield SettingError(file.problem)
    by_path = {command.path: command for command in commands}
    first: dict[Keys, Keys] = {}
    wrong_keys = 0
    for keys, value in sorted(_iter_entries(by_path, file.values), key=lambda entry: len(entry[0]) == 1):
        *path, key = map(hyphenate, keys)
        known = [by_path[tuple(path)]] if path else commands
        targets = [(command, setting) for command in known if (setting := command.find(key))]
        place, same = file.location(keys), first.setdefault((*path, key), keys)
        what, hint = _check_key(by_path, keys, value, allowed)
        if same != keys and not what:  # ctx-size and ctx_size are one key here, but two in TOML
            what, hint = f"'{keys[-1]}' is the same key as '{same[-1]}'", f"{file.location(same)} has the other one"
        if not what:
            yield from (RawSetting(*target, value, place, keys[-1]) for target in targets)
            continue
        yield SettingError(QwenctlError(f"{place} {what}", hint, ExitCode.CONFIG))
        wrong_keys += 1
        if wrong_keys == _MAX_WRONG_KEYS:
            return


def _iter_entries(commands: Collection[Keys], table: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield path and value of each key; the tables of `commands` themselves are left out."""
    for key, value in table.items():
        keys = (*above, key)
        if isinstance(value, dict) and tuple(map(hyphenate, keys)) in commands:
            yield from _iter_entries(commands, value, keys)
        else:
            yield keys, value


def _check_key(
    commands: Mapping[Keys, Command], keys: Keys, value: Any, allowed: frozenset[str] | None
) -> tuple[str, str]:
    """Return what is wrong with a key of a file ("" if nothing is), and a hint."""
    *path, key = map(hyphenate, keys)
    known = [commands[tuple(path)]] if path else list(commands.values())
    matching = {setting.name for command in known if (setting := command.find(key))}
    shown = keys[-1] if len(key) <= _MAX_KEY else f"{keys[-1][:_MAX_KEY]}…"
    if (*path, key) in commands:
        return f"'{shown}' is a command", f"[{'.'.join((*path, key))}] starts the table of its settings"
    if allowed is not None and (denied := matching - allowed):
        hint = f"use --{min(denied)}, or set it in the user's file (see `qwenctl config path`)"
        return f"'{shown}' is not allowed in a file in the current folder", hint
    if matching:
        return "", ""
    if any(key in command.cli_only for command in known):
        return f"'{shown}' can only be given on the command line", f"give --{key} when you need it"
    what = f"unknown {'table' if isinstance(value, dict) else 'key'} '{shown}'"
    owners = [command.name for command in commands.values() if path and command.find(key)]
    if owners:
        return what, f"'{key}' belongs under [{owners[0]}]"
    names = {inner[-1]: inner[-1] for inner in commands if inner[:-1] == tuple(path)}
    names |= {name: setting.name for command in known for setting in command.settings for name in setting.names}
    near = names.get(find_nearest(key.lower(), names))
    return what, f"did you mean '{near}'?" if near else "`qwenctl config show` lists all keys"


# ------------------------------------------------------------------ values


def _validate(raw: RawSetting) -> OptionValue:
    """Return the value in the form that click parses. Raises QwenctlError with click's message and the origin."""
    try:
        given = _from_toml(raw.setting, raw.value) if raw.key else _from_text(raw.setting, raw.value)
        raw.setting.option.process_value(typer.Context(raw.command.typer_command), given)
    except (QwenctlError, typer.BadParameter) as error:
        message = normalize_message(error.message) if isinstance(error, typer.BadParameter) else error.message
        short = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…"
        label, hint = f"{raw.origin} {raw.key}".rstrip(), f"qwenctl {' '.join(raw.command.path)} --help"
        raise QwenctlError(f"{label}: {short}", hint, ExitCode.CONFIG) from error
    return given


def _from_toml(setting: Setting, value: Any) -> OptionValue:
    """Convert `value` from tomllib for `setting`. Raises QwenctlError if it is of the wrong type."""
    expected, types = _EXPECTED[setting.kind]
    values = value if setting.kind == "list" and isinstance(value, list) else [value]
    if any(type(item) not in types for item in values):
        kind = str(value).lower() if isinstance(value, bool) else _TYPES.get(type(value), "a time")
        raise QwenctlError(f"{expected} is needed" if values is value else f"{expected} is needed, not {kind}")
    if isinstance(value, bool):
        return value
    try:
        texts = [_expand_home(setting, str(item)) for item in values]
    except ValueError as error:  # Python converts integers of at most 4,300 digits
        raise QwenctlError("the number is too large") from error
    return texts if setting.kind == "list" else texts[0]


def _from_text(setting: Setting, text: str) -> OptionValue:
    """Convert the text of a variable for `setting`. Raises QwenctlError if a switch is neither on nor off."""
    if setting.kind == "list":
        return [_expand_home(setting, item) for item in text.split(os.pathsep if setting.is_path else None)]
    if setting.kind != "switch":
        return _expand_home(setting, text)
    if text.strip().lower() not in _SWITCH:
        raise QwenctlError(f"{text!r} is neither on nor off")
    return _SWITCH[text.strip().lower()]


def _expand_home(setting: Setting, text: str) -> str:
    """Expand ~/ in a path, as a shell does. Raises QwenctlError for NUL, which no command line can contain."""
    if "\0" in text:
        raise QwenctlError("text without the character NUL is needed")
    return os.path.expanduser(text) if setting.is_path and text.startswith("~/") else text
