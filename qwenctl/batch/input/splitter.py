"""A stream cut into its pieces: lines, or what stands between NULs, each with its line; no piece fills the memory.

Bytes come in, pieces go out, each whole or marked as too long. What a piece means is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from qwenctl.errors import ExitCode, QwenctlError

MOST_BYTES = 64 << 20  # far above any context
_STEP = 1 << 16
_BOM = b"\xef\xbb\xbf"
_NOT_TEXT = (
    (b"\x1f\x8b", "is gzip-compressed", "gunzip -c {name} | qwenctl batch - …"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed", "zstd -dc {name} | qwenctl batch - …"),
    (b"PK\x03\x04", "is a zip archive", "unzip -p {name} | qwenctl batch - …"),
    (b"\xff\xfe", "is UTF-16", "iconv -f utf-16 -t utf-8 {name} | qwenctl batch - …"),
    (b"\xfe\xff", "is UTF-16", "iconv -f utf-16 -t utf-8 {name} | qwenctl batch - …"),
    (b"PAR1", "is a Parquet file", "convert it to JSON lines, text or CSV"),
)


@dataclass(frozen=True)
class InputLine:
    """One piece without its end; `line` is where it begins, from 1. It is not whole if it is cut at `MOST_BYTES`."""

    line: int
    data: bytes
    is_whole: bool = True


def split_lines(stream: BinaryIO, name: str, end: bytes = b"\n") -> Iterator[InputLine]:
    """The pieces of a stream, which `end` ends; blank ones too. A byte order mark is left out.

    Raises QwenctlError for what is no UTF-8 text at all.
    """
    line, first = 1, True
    for data, is_whole in _cut(stream, end):
        if first:
            check_text(data, name)
            data, first = data.removeprefix(_BOM), False
        yield InputLine(line, data, is_whole)
        line += 1 if end == b"\n" else data.count(b"\n")


def check_text(begin: bytes, name: str) -> None:
    """Raise QwenctlError for the begin of what is compressed, or in another encoding."""
    for magic, what, hint in _NOT_TEXT:
        if begin.startswith(magic):
            raise QwenctlError(f"{name} {what}", hint.format(name=name), ExitCode.BAD_DATA)


def _cut(stream: BinaryIO, end: bytes) -> Iterator[tuple[bytes, bool]]:
    """Pieces and whether they are whole; the last needs no end."""
    held = bytearray()
    too_long = False
    while data := stream.read1(_STEP) if hasattr(stream, "read1") else stream.read(_STEP):
        *ended, rest = data.split(end)
        for piece in ended:
            held += piece
            yield (bytes(held[:MOST_BYTES]), not too_long and len(held) <= MOST_BYTES)
            held.clear()
            too_long = False
        held += rest
        if len(held) > MOST_BYTES:
            del held[MOST_BYTES + 1 :]
            too_long = True
    if held:
        yield bytes(held[:MOST_BYTES]), not too_long and len(held) <= MOST_BYTES
