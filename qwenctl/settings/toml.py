"""Reads one TOML file of settings: its values and the line of each key, or what is wrong with it.

A path comes in, a `TomlFile` goes out; a file that is not there has no values. It does not know what a setting is.
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
# tomllib takes time and memory in the square of the number of parts of a dotted key: 17 s for one of 64 KiB.
_MAX_KEY_PARTS = 16
# Multi-line strings may have two more quotes before the three that end them (TOML 1.0, "String"). A string without an
# end goes on to the end of the line or text: no alternative fails far from where it began, so nothing is read twice.
_STRING_OR_COMMENT = re.compile(
    r'"""(?:\\.?|[^\\])*?(?:""""{0,2}|\Z)'
    r"|'''.*?(?:''''{0,2}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
# Begins at the start of a word and gives nothing back, so that no word is read again for each of its letters.
_DOTTED_KEY = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+)++")


@dataclass(frozen=True)
class TomlFile:
    """What the file `path` says: its `values`, as tomllib reads them from `text`; `problem` is why there are none."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    problem: QwenctlError | None = None

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """The line of each key."""
        return key_lines(self.text)

    def place(self, keys: KeyPath) -> str:
        """Where the key with the path `keys` stands, as in `qwenctl.toml:7`; in an inline table its line."""
        known = [self.lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in self.lines]
        return f"{self.path}:{known[0]}" if known else str(self.path)


def folder_path() -> Path:
    """The file of the current folder, without the folder, as it is named in messages."""
    return Path("qwenctl.toml")


def user_path() -> Path:
    """The user's file, in the platform's folder for configuration."""
    from platformdirs import user_config_path

    return user_config_path("qwenctl", appauthor=False) / "config.toml"


def read_toml(path: Path) -> TomlFile:
    """The file `path`; without values if there is none, or if it cannot be read or understood."""
    try:
        text = _text(path)
        return TomlFile(path, _values(path, text), text)
    except FileNotFoundError:
        return TomlFile(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return TomlFile(path, problem=_problem(str(path), f"cannot be read ({reason})"))
    except QwenctlError as error:
        return TomlFile(path, problem=error)


def _text(path: Path) -> str:
    """The text of a regular file of a reasonable size. Raises OSError, QwenctlError."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
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
    """Raises QwenctlError with the line at which `text` is not TOML."""
    parts, line = deepest_key(text)
    if parts > _MAX_KEY_PARTS:
        raise _problem(f"{path}:{line}", f"a key of {parts} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise _problem(str(path), "brackets are nested too deeply") from error
    except ValueError as error:  # tomllib's own error is one; so is that of a number with too many digits
        place = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        reason = place[1] if place else str(error).partition(":")[0]
        where = f"{path}:{place[2] or text.rstrip().count(chr(10)) + 1}" if place else str(path)
        raise _problem(where, f"is not TOML: {reason[:1].lower()}{reason[1:]}") from error


def _problem(where: str, what: str) -> QwenctlError:
    return QwenctlError(f"{where} {what}", "qwenctl config path", ExitCode.CONFIG)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The first line, from 1, on which each key and each table is named that does not stand in an inline table."""
    text = text.replace("\r\n", "\n")
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    depth = 0
    for number, (line, bare) in enumerate(zip(text.split("\n"), _masked(text).split("\n"), strict=True), 1):
        if depth <= 0 and bare.lstrip().startswith("["):
            path = table = _keys(line[: len(bare)])
        elif depth <= 0 and "=" in bare:
            path = (*table, *_keys(f"{line[: bare.index('=')]} = 0"))
        else:
            path = ()
        for length in range(1, len(path) + 1):
            found.setdefault(path[:length], number)
        depth = max(depth, 0) + sum(map(bare.count, "[{")) - sum(map(bare.count, "]}"))
    return found


def deepest_key(text: str) -> tuple[int, int]:
    """The greatest number of parts of a dotted key, and the line of that key; 1 and 0 if no key has a dot."""
    masked = _masked(text)
    longest = max(_DOTTED_KEY.finditer(masked), key=lambda key: key[0].count("."), default=None)
    return (longest[0].count(".") + 1, masked.count("\n", 0, longest.start()) + 1) if longest else (1, 0)


def _masked(text: str) -> str:
    """`text` with each string as a word of the same length, over the same lines, and without comments."""
    return _STRING_OR_COMMENT.sub(lambda piece: "" if piece[0][0] == "#" else re.sub(".", "_", piece[0]), text)


def _keys(statement: str) -> KeyPath:
    """The parts of the one key in `statement`, none if it is not TOML."""
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
