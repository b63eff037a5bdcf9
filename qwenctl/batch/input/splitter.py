"""Splits a stream into records: lines, or NUL-terminated strings, each with its line number.

Bytes come in, records go out, each cut off and marked if it is too long, so that memory stays bounded. What a record
means is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from qwenctl.files.text_check import find_other_kind, not_text_error

MAX_RECORD_BYTES = 64 << 20  # of a record; far more than any context holds
_STEP = 1 << 18
_BOM = b"\xef\xbb\xbf"
PIPE = "qwenctl batch - …"  # the command that reads a converted input


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
            if (found := find_other_kind(data, allows_nul=True)) is not None:
                raise not_text_error(found, name, PIPE)
            data, first = data.removeprefix(_BOM), False
        yield InputLine(line, data, is_whole)
        line += 1 if end == b"\n" else data.count(b"\n")


def _cut(stream: BinaryIO, end: bytes) -> Iterator[tuple[bytes, bool]]:
    """Records and whether they are whole; the last one needs no terminator."""
    held = bytearray()
    too_long = False
    while data := stream.read1(_STEP) if hasattr(stream, "read1") else stream.read(_STEP):
        *ended, rest = data.split(end)
        for piece in ended:
            held += piece
            is_whole = not too_long and len(held) <= MAX_RECORD_BYTES
            with memoryview(held) as view:  # one copy less than of a slice of `held`
                record = bytes(view[:MAX_RECORD_BYTES])
            held.clear()  # not later: while a record is parsed, it is in memory often enough
            too_long = False
            yield record, is_whole
        held += rest
        if len(held) > MAX_RECORD_BYTES:
            del held[MAX_RECORD_BYTES + 1 :]
            too_long = True
    if held:
        is_whole = not too_long and len(held) <= MAX_RECORD_BYTES
        with memoryview(held) as view:
            record = bytes(view[:MAX_RECORD_BYTES])
        held.clear()
        yield record, is_whole
