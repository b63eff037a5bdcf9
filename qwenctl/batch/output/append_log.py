"""A file to which whole lines are added, each by one write, and which is on the disk when that is asked for.

What stands in it survives the end of the process at any moment; at the worst its last line is torn, and `lines` leaves
that out. What the lines are is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_STEP = 1 << 20


class AppendLog:
    """The file at `path`, made if it is not there. Every method raises OSError with its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.size = os.fstat(self._descriptor).st_size
        self._is_dirty = False

    def append(self, line: bytes) -> int:
        """Add a line, which ends with its newline; where it begins. After a failure nothing of it stays."""
        begin = self.size
        self._is_dirty = True
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):  # what is in the way is told by the next write
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            self.truncate(begin)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.size += written
        return begin

    def read(self, begin: int, size: int) -> bytes:
        """Bytes from the middle."""
        return os.pread(self._descriptor, size, begin)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every whole line, newline included, and where it begins."""
        at, held = 0, b""
        while piece := os.pread(self._descriptor, _STEP, at + len(held)):
            *whole, held = (held + piece).split(b"\n")
            for line in whole:
                yield at, line + b"\n"
                at += len(line) + 1

    def truncate(self, size: int) -> None:
        """Leave out all after the first `size` bytes."""
        os.ftruncate(self._descriptor, size)
        self.size, self._is_dirty = size, True

    def sync(self) -> None:
        """Wait until all is on the disk."""
        if not self._is_dirty:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._is_dirty = False

    def close(self) -> None:
        """Close the file, which may be closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
