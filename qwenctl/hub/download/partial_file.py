"""A file that is on its way: its bytes at their places, and behind them a count for each segment of what has arrived.

A segment is written from its start to its end, by one connection at a time, and its count grows after its bytes: so a
process that is killed loses no byte that it has counted, and the next one goes on from there. The counts are cut off
and the file gets its final name when it is whole and its hash is right. Whoever opens a part must be alone with it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

_MAGIC = b"qwenctl part v1\n"
_MIB = 1 << 20
_SMALLEST, _LARGEST, _SEGMENTS = 8 * _MIB, 32 * _MIB, 8


@dataclass
class PartialFile:
    """An open part of a file of `size` bytes. `counts` are the bytes that have arrived of each segment."""

    path: Path
    size: int
    segment: int
    descriptor: int
    counts: list[int] = field(default_factory=list)

    @property
    def arrived(self) -> int:
        """Bytes that are here."""
        return sum(self.counts)

    def missing_range(self, number: int) -> tuple[int, int]:
        """Where the missing bytes of a segment begin and end."""
        start = number * self.segment
        return start + self.counts[number], min(start + self.segment, self.size)

    def is_whole(self, number: int) -> bool:
        """Whether a segment has no missing bytes."""
        start, end = self.missing_range(number)
        return start == end

    def contiguous_bytes(self, known: int = 0) -> int:
        """Bytes from the start of the file up to the first that is missing, which is not before `known`."""
        for number in range(known // self.segment, len(self.counts)):
            start, end = self.missing_range(number)
            if start < end:
                return start
        return self.size

    def write(self, number: int, data: bytes) -> None:
        """Append `data` to a segment, which must have room for it. Raises OSError."""
        at, rest = self.missing_range(number)[0], memoryview(data)
        while rest:
            written = os.pwrite(self.descriptor, rest, at)
            at, rest = at + written, rest[written:]
        self._count(number, self.counts[number] + len(data))

    def read(self, at: int, n_bytes: int) -> bytes:
        """Up to `n_bytes` of those that are here."""
        return os.pread(self.descriptor, n_bytes, at)

    def reset(self) -> None:
        """All bytes are missing again."""
        for number in range(len(self.counts)):
            self._count(number, 0)

    def finish(self, final: Path) -> None:
        """Give the file its final name, when all of it is on the disk. Raises OSError."""
        os.ftruncate(self.descriptor, self.size)
        os.fsync(self.descriptor)
        os.replace(self.path, final)
        sync_folder(final.parent)

    def close(self) -> None:
        """Close the file; it can be opened again."""
        os.close(self.descriptor)

    def _count(self, number: int, count: int) -> None:
        """Count on the disk first: who sees a whole file cuts the counts off and closes it, and nothing may follow."""
        os.pwrite(self.descriptor, struct.pack("<Q", count), self.size + len(_MAGIC) + 8 + 8 * number)
        self.counts[number] = count


def open_part(path: Path, size: int) -> PartialFile:
    """The part at `path` of a file of `size` bytes, as an earlier process left it, or a new one. Raises OSError."""
    segment = segment_bytes(size)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        part = PartialFile(path, size, segment, descriptor)
        part.counts = _counts_of(part) or _begin(part)
    except BaseException:
        os.close(descriptor)
        raise
    return part


def arrived_bytes(path: Path, size: int) -> int:
    """What is already here of a file of `size` bytes; 0 if there is no part of it."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(_counts_of(PartialFile(path, size, segment_bytes(size), file.fileno())) or [])


def segment_bytes(size: int) -> int:
    """The size of a segment: small enough for several connections to work on one file, large enough that the time
    until an answer begins does not count (at 50 MB/s and 30 ms, 15 % of the smallest and 4 % of the largest)."""
    return min(_LARGEST, max(_SMALLEST, -(-size // _SEGMENTS // _MIB) * _MIB))


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _segments(part: PartialFile) -> list[int]:
    """The length of each segment."""
    return [min(part.segment, part.size - start) for start in range(0, part.size, part.segment)]


def _counts_of(part: PartialFile) -> list[int] | None:
    """The counts behind the bytes; None if they are not those of this file."""
    lengths = _segments(part)
    tail = len(_MAGIC) + 8 + 8 * len(lengths)
    size = os.fstat(part.descriptor).st_size
    if size == part.size:  # killed between the last two steps; the hash will be asked again
        return lengths
    if size != part.size + tail:
        return None
    data = os.pread(part.descriptor, tail, part.size)
    if not data.startswith(_MAGIC) or len(data) != tail:
        return None
    segment, *counts = struct.unpack(f"<{1 + len(lengths)}Q", data[len(_MAGIC) :])
    return counts if segment == part.segment and all(map(int.__le__, counts, lengths)) else None


def _begin(part: PartialFile) -> list[int]:
    """Make the file new, with all bytes missing."""
    counts = [0] * len(_segments(part))
    os.ftruncate(part.descriptor, 0)
    os.ftruncate(part.descriptor, part.size)
    tail = _MAGIC + struct.pack(f"<{1 + len(counts)}Q", part.segment, *counts)
    os.pwrite(part.descriptor, tail, part.size)
    return counts
