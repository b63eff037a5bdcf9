"""How a value of TOML, or a text of the environment, becomes what an option's parser takes.

A setting and a raw value come in; text, a truth value or a list of texts goes out, or a QwenctlError whose message
reads after the name of the setting. Whether the text is right is for the parser to say.
"""

from __future__ import annotations

import os
from typing import Any

from qwenctl.errors import QwenctlError
from qwenctl.settings.declared_options import Setting

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
