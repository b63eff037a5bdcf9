"""Reads one TOML file of settings: its values, the line of each key, or what is wrong with it.

A path comes in, a `TomlFile` goes out; a file that is not there has no values. It does not know what a setting is.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from qwenctl.errors import ExitCode, QwenctlError

_MAX_BYTES = 256 * 1024
# tomllib takes time and memory in the square of the number of parts of a dotted key: 17 s for one of 64 KiB.
_MAX_KEY_PARTS = 16


@dataclass(frozen=True)
class TomlFile:
    """What a file says. `lines` has the line of each key by its path; `problem` is why there are no values."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    problem: QwenctlError | None = None

    def place(self, keys: tuple[str, ...]) -> str:
        """Where the key with the path `keys` stands, as in `qwenctl.toml:7`; in an inline table its line."""
        known = [keys[:length] for length in range(len(keys), 0, -1) if keys[:length] in self.lines]
        return f"{self.path}:{self.lines[known[0]]}" if known else str(self.path)


def read_toml(path: Path) -> TomlFile:
    """The file `path`; without values if there is none, or if it cannot be read or understood."""
    try:
        return _parsed(path, _text(path))
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
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _problem(f"{path}:{line}", "is not UTF-8 text") from error


def _parsed(path: Path, text: str) -> TomlFile:
    """Raises QwenctlError."""
    import tomllib

    from qwenctl.settings.toml import deepest_key, key_lines

    parts, line = deepest_key(text)
    if parts > _MAX_KEY_PARTS:
        raise _problem(f"{path}:{line}", f"a key of {parts} parts")
    try:
        return TomlFile(path, tomllib.loads(text), key_lines(text))
    except RecursionError as error:
        raise _problem(str(path), "brackets are nested too deeply") from error
    except ValueError as error:  # tomllib's own error is one; so is that of a number with too many digits
        raise _syntax(path, text, str(error)) from error


def _syntax(path: Path, text: str, message: str) -> QwenctlError:
    """tomllib's message, such as "Invalid value (at line 3, column 5)", with the line where it is looked for."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    reason = found[1] if found else message.partition(":")[0]
    last = text.rstrip().count("\n") + 1
    where = f"{path}:{found[2] or last}" if found else str(path)
    return _problem(where, f"is not TOML: {reason[:1].lower()}{reason[1:]}")


def _problem(where: str, what: str) -> QwenctlError:
    return QwenctlError(f"{where} {what}", "qwenctl config path", ExitCode.CONFIG)


KeyPath = tuple[str, ...]

# Multi-line strings may have two more quotes before the three that end them (TOML 1.0, "String"). A string without an
# end goes on to the end of the line or text: no alternative fails far from where it began, so nothing is read twice.
_PIECE = re.compile(
    r'"""(?:\\.?|[^\\])*?(?:""""{0,2}|\Z)'
    r"|'''.*?(?:''''{0,2}|\Z)"
    r'|"(?:\\[^\n]|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|\#[^\n]*|\n|[\[\]{}=,.]"
    r"|[^\s\"'#\[\]{}=,.]+",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The first line, from 1, on which each key and each table is named; of a deep one the first parts alone."""
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for line, pieces in _statements(text):
        if pieces[0] == "[":
            path = table = _keys(pieces, "]")
        else:
            path = (*table, *_keys(pieces, "="))
        for length in range(1, min(len(path), _MAX_KEY_PARTS) + 1):
            found.setdefault(path[:length], line)
    return found


def deepest_key(text: str) -> tuple[int, int]:
    """The greatest number of parts of a dotted key, and the first line of the statement that it is in."""
    return max(((_longest(pieces), line) for line, pieces in _statements(text)), default=(0, 0))


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each statement with its first line; a value may go over several lines within brackets."""
    line, depth, start = 1, 0, 1
    pieces: list[str] = []
    for piece in _PIECE.findall(text):
        depth += (piece in ("[", "{")) - (piece in ("]", "}"))
        if piece == "\n" and depth <= 0:
            if pieces:
                yield start, pieces
            pieces, depth = [], 0
        elif piece != "\n" and not piece.startswith("#"):
            start = start if pieces else line
            pieces.append(piece)
        line += piece.count("\n")
    if pieces:
        yield start, pieces


def _longest(pieces: list[str]) -> int:
    longest = parts = 1
    for before, piece in pairwise(pieces):
        parts = parts + (piece == ".") if "." in (before, piece) else 1
        longest = max(longest, parts)
    return longest


def _keys(pieces: list[str], end: str) -> KeyPath:
    until = pieces.index(end) if end in pieces else len(pieces)
    return tuple(_unquoted(piece) for piece in pieces[:until] if piece not in (".", "["))


def _unquoted(piece: str) -> str:
    if piece[0] not in "\"'":
        return piece
    try:
        return str(tomllib.loads(f"key = {piece}")["key"])
    except (ValueError, KeyError):
        return piece


def folder_path() -> Path:
    """The file of the current folder, without the folder, as it is named in messages."""
    return Path("qwenctl.toml")


def user_path() -> Path:
    """The user's file, in the platform's folder for configuration."""
    from platformdirs import user_config_path

    return user_config_path("qwenctl", appauthor=False) / "config.toml"


def read_files() -> tuple[TomlFile, TomlFile]:
    """Both files, the one that comes first first."""
    return read_toml(folder_path()), read_toml(user_path())
