"""Read the old format of llama-imatrix, `imatrix.dat`, which many publishers still offer.

A path comes in; where each tensor's values are in the file goes out, or None for any other file. The format has no
magic number, so every length is checked against the file. Format: `common_imatrix_load_legacy` in llama.cpp's
common/imatrix-loader.cpp: the number of entries; for each its name, calls and float32 values; chunks and data set.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_NUMBER = struct.Struct("<i")
_MAX_ENTRIES, _MAX_NAME_BYTES = 100_000, 256


@dataclass(frozen=True)
class OldEntry:
    """The values of one tensor: `n_values` float32 at `offset`; each divided by `calls` is a mean square."""

    name: str
    calls: int
    n_values: int
    offset: int


@dataclass(frozen=True)
class OldImatrix:
    """An importance matrix in the old format; without its optional end, `chunks` is 0 and `dataset` ""."""

    entries: tuple[OldEntry, ...]
    chunks: int
    dataset: str


def read_old_imatrix(path: Path) -> OldImatrix | None:
    """Read the old importance matrix in the file `path`; None if it is anything else, or damaged. Raises OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def number() -> int:
            data = file.read(_NUMBER.size)
            value: int = _NUMBER.unpack(data)[0] if len(data) == _NUMBER.size else -1
            return value

        count, entries = number(), []
        if not 1 <= count <= _MAX_ENTRIES:
            return None
        for _ in range(count):
            length = number()
            name = file.read(length) if 1 <= length <= _MAX_NAME_BYTES else b""
            calls, n_values = number(), number()
            if not name.isascii() or b"." not in name or n_values < 1 or file.tell() + 4 * n_values > size:
                return None
            entries.append(OldEntry(name.decode(), calls, n_values, file.tell()))
            file.seek(4 * n_values, 1)
        chunks, length = max(0, number()), number()
        dataset = file.read(length).decode(errors="replace") if 0 < length <= size else ""
    return OldImatrix(tuple(entries), chunks, dataset)
