"""Whether a file beside an output was made by a batch: only such a file may be changed or removed.

A path comes in; an error goes out if the file is somebody else's. It is recognized by its lines, also by what is left
of a damaged one. An empty file, or one of nothing but zeros as after a power cut, has nothing to lose.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

from qwenctl.errors import ExitCode, QwenctlError

Kind = Literal["stats", "errors", "journal"]
_STEP = 1 << 20
_OVERLAP = 1 << 12  # a mark may lie across two pieces
_REMNANT_BYTES = 64  # less than this beside zeros may hold no mark
_MARKS: dict[Kind, re.Pattern[bytes]] = {
    "stats": re.compile(rb'^\{"batch": \{"version": \d|"line_hash": "[0-9a-f]{16}"', re.MULTILINE),
    "errors": re.compile(
        rb'^\{"id": ("[^\n]{0,999}"|null), ("line": \d+, )?"where": "|"hash": "[^"\n]{0,99}", "error": \{"kind": "',
        re.MULTILINE,
    ),
    "journal": re.compile(
        rb'^\{"batch": \{"version": \d|^\{"key": "|"fingerprint": "[^"\n]{0,99}", "line": "'
        rb'|"check": "[0-9a-f]{16}"\}$',
        re.MULTILINE,
    ),
}


def check_owned(path: Path, kind: Kind) -> None:
    """Raises QwenctlError (CANNOT_CREATE) if there is a file at `path` that no batch has made, or a symbolic link."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "not a file"
        raise _refusal(path, f"{path} is {what}: a batch would write its own file there")
    if not _has_mark(path, _MARKS[kind]):
        raise _refusal(path, f"{path} exists, and no batch has made it")


def _has_mark(path: Path, mark: re.Pattern[bytes]) -> bool:
    """Whether the mark is anywhere in the file; also if there is almost nothing but zeros."""
    size = others = 0
    begin = held = b""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while piece := file.read(_STEP):
            if mark.search(held + piece):
                return True
            begin = begin or piece[:1]
            size += len(piece)
            others += len(piece) - piece.count(0)
            held = piece[-_OVERLAP:]
    return not others or (others < size and others <= _REMNANT_BYTES and begin in b"\0{")


def _refusal(path: Path, message: str) -> QwenctlError:
    return QwenctlError(message, f"move {path.name} away, or choose another -o", ExitCode.CANNOT_CREATE)
