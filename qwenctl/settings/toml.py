"""Reads one TOML file of settings: its values and the line of each key, or an error.

A path comes in, a `TomlFile` goes out; a missing file has no values. What the settings are is not known here.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qwenctl.errors import ExitCode, QwenctlError

KeyPath = tuple[str, ...]

_MAX_BYTES = 256 * 1024
# tomllib's time and memory grow with the square of the parts of a dotted key: 17 s for a key of 64 KiB.
_MAX_KEY_PARTS = 16
# A multi-line string may end with two more quotes before the closing three (TOML 1.0, "String"). A string without end
# extends to the end of the line or text: so no alternative fails late, and matching takes linear time.
_STRING_OR_COMMENT = re.compile(
    r'"""(?:\\.?|[^\\])*?(?:""""{0,2}|\Z)'
    r"|'''.*?(?:''''{0,2}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
# Starts only at the start of a word and never backtracks (possessive quantifiers), so matching takes linear time.
_DOTTED_KEY = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+)++")


@dataclass(frozen=True)
class TomlFile:
    """The contents of the file `path`: `values` as tomllib parses `text`, or `problem` if that failed."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    problem: QwenctlError | None = None

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """The line number of each key, from 1."""
        return find_key_lines(self.text)

    def location(self, keys: KeyPath) -> str:
        """Return the location of a key, as in `qwenctl.toml:7`; for a key in an inline table, the line of the table."""
        known = [self.lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in self.lines]
        return f"{self.path}:{known[0]}" if known else str(self.path)


def local_settings_path() -> Path:
    """Return the path of the current folder's file, relative as in messages."""
    return Path("qwenctl.toml")


def user_settings_path() -> Path:
    """Return the path of the user's file, in the platform's configuration folder."""
    from platformdirs import user_config_path

    return user_config_path("qwenctl", appauthor=False) / "config.toml"


def read_toml(path: Path) -> TomlFile:
    """Read the file `path`; a missing file has no values, and an error is returned as `problem`."""
    try:
        text = _text(path)
        return TomlFile(path, _values(path, text), text)
    except (FileNotFoundError, NotADirectoryError):
        return TomlFile(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return TomlFile(path, problem=_problem(str(path), f"cannot be read ({reason})"))
    except QwenctlError as error:
        return TomlFile(path, problem=error)


def _text(path: Path) -> str:
    """Read a regular file of at most `_MAX_BYTES`. Raises OSError, or QwenctlError if it is none or not UTF-8."""
    try:
        mode = path.stat().st_mode
    except PermissionError as error:  # in somebody else's home folder, where nothing can be meant for this user
        raise FileNotFoundError(str(path)) from error
    if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
        raise _problem(str(path), "is not a file")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise _problem(str(path), f"is too large for settings: more than {_MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _problem(f"{path}:{line}", "is not UTF-8 text") from error


def _values(path: Path, text: str) -> dict[str, Any]:
    """Parse `text`. Raises QwenctlError with the line at which it is not TOML."""
    parts, line = find_deepest_key(text)
    if parts > _MAX_KEY_PARTS:
        raise _problem(f"{path}:{line}", f"has a key of {parts} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise _problem(str(path), "brackets are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number with too many digits
        place = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        reason = place[1] if place else str(error).partition(":")[0]
        where = f"{path}:{place[2] or text.rstrip().count(chr(10)) + 1}" if place else str(path)
        raise _problem(where, f"is not TOML: {reason[:1].lower()}{reason[1:]}") from error


def _problem(where: str, what: str) -> QwenctlError:
    return QwenctlError(f"{where} {what}", "qwenctl config path", ExitCode.CONFIG)


def find_key_lines(text: str) -> dict[KeyPath, int]:
    """Return the first line, from 1, of each key and table outside inline tables."""
    text = text.replace("\r\n", "\n")
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    depth = 0
    for number, (line, bare) in enumerate(zip(text.split("\n"), _mask_strings(text).split("\n"), strict=True), 1):
        if depth <= 0 and bare.lstrip().startswith("["):
            path = table = _keys(line[: len(bare)])
        elif depth <= 0 and "=" in bare:
            path = (*table, *_keys(f"{line[: bare.index('=')]} = 0"))
        else:
            path = ()
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], number)
        depth = max(depth, 0) + sum(map(bare.count, "[{")) - sum(map(bare.count, "]}"))
    return lines


def find_deepest_key(text: str) -> tuple[int, int]:
    """Return the largest number of parts of a dotted key, and its line; (1, 0) if no key has a dot."""
    masked = _mask_strings(text)
    longest = max(_DOTTED_KEY.finditer(masked), key=lambda key: key[0].count("."), default=None)
    return (longest[0].count(".") + 1, masked.count("\n", 0, longest.start()) + 1) if longest else (1, 0)


def _mask_strings(text: str) -> str:
    """Replace each string by underscores of the same length, keeping line breaks, and remove comments."""
    return _STRING_OR_COMMENT.sub(lambda piece: "" if piece[0][0] == "#" else re.sub(".", "_", piece[0]), text)


def _keys(statement: str) -> KeyPath:
    """Return the parts of the only key in `statement`; () if it is not TOML."""
    try:
        value: Any = tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while value:
        [(key, value)] = value.items()
        value = value[0] if isinstance(value, list) else value  # [[key]]
        path.append(key)
    return tuple(path)
