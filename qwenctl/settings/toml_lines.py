"""On which line of a TOML text each key stands.

Text comes in, a mapping from the path of a key to its line goes out. It is meant for TOML that `tomllib` accepts; for
any other text something comes out, in a time linear in its length, and nothing is raised.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise

Path = tuple[str, ...]

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
_MAX_PARTS = 16


def key_lines(text: str) -> dict[Path, int]:
    """The first line, from 1, on which each key and each table is named; of a deep one the first parts alone."""
    found: dict[Path, int] = {}
    table: Path = ()
    for line, pieces in _statements(text):
        if pieces[0] == "[":
            path = table = _keys(pieces, "]")
        else:
            path = (*table, *_keys(pieces, "="))
        for length in range(1, min(len(path), _MAX_PARTS) + 1):
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


def _keys(pieces: list[str], end: str) -> Path:
    until = pieces.index(end) if end in pieces else len(pieces)
    return tuple(_unquoted(piece) for piece in pieces[:until] if piece not in (".", "["))


def _unquoted(piece: str) -> str:
    if piece[0] not in "\"'":
        return piece
    try:
        return str(tomllib.loads(f"key = {piece}")["key"])
    except (ValueError, KeyError):
        return piece
