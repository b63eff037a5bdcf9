"""Splits a stream into records: lines, or NUL-terminated strings, each with its line number.

Bytes come in, records go out, each cut off and marked if it is too long, so that memory stays bounded. What a record
means is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from qwenctl.errors import ExitCode, QwenctlError, quote

MAX_RECORD_BYTES = 64 << 20  # of a record; far more than any context holds
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
    """A record without its terminator, cut at `MAX_RECORD_BYTES` unless `is_whole`; `line` is its first one, from 1."""

    line: int
    data: bytes
    is_whole: bool = True


def split_lines(stream: BinaryIO, name: str, end: bytes = b"\n") -> Iterator[InputLine]:
    """The records of a stream, each terminated by `end`; blank ones too. A byte order mark is dropped.

    Raises QwenctlError for a stream that is compressed or in another encoding.
    """
    line, first = 1, True
    for data, is_whole in _cut(stream, end):
        if first:
            check_text(data, name)
            data, first = data.removeprefix(_BOM), False
        yield InputLine(line, data, is_whole)
        line += 1 if end == b"\n" else data.count(b"\n")


def check_text(begin: bytes, name: str) -> None:
    """Raises QwenctlError if the first bytes are those of a compressed file, or of another encoding."""
    for magic, what, hint in _NOT_TEXT:
        if begin.startswith(magic):
            raise QwenctlError(f"{name} {what}", hint.format(name=quote(name)), ExitCode.BAD_DATA)


def _cut(stream: BinaryIO, end: bytes) -> Iterator[tuple[bytes, bool]]:
    """Records and whether they are whole; the last one needs no terminator."""
    held = bytearray()
    too_long = False
    while data := stream.read1(_STEP) if hasattr(stream, "read1") else stream.read(_STEP):
        *ended, rest = data.split(end)
        for piece in ended:
            held += piece
            yield (bytes(held[:MAX_RECORD_BYTES]), not too_long and len(held) <= MAX_RECORD_BYTES)
            held.clear()
            too_long = False
        held += rest
        if len(held) > MAX_RECORD_BYTES:
            del held[MAX_RECORD_BYTES + 1 :]
            too_long = True
    if held:
        yield bytes(held[:MAX_RECORD_BYTES]), not too_long and len(held) <= MAX_RECORD_BYTES
