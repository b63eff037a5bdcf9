"""A file of lines that only grows: each line is appended by one write, and `sync` brings the file to disk.

If the process is killed, at worst the last line is torn; `lines` leaves it out. What the lines mean is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_STEP = 1 << 20


class AppendLog:
    """The file at `path`, created if it does not exist. Every method raises OSError with the file name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.size = os.fstat(self._descriptor).st_size
        self._is_dirty = False

    def append(self, line: bytes) -> int:
        """Append a line with its newline; its byte offset. If that fails, no part of the line remains."""
        begin = self.size
        self._is_dirty = True
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):  # after a short write, the next one raises the reason
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            self.truncate(begin)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.size += written
        return begin

    def read(self, begin: int, size: int) -> bytes:
        """`size` bytes from the offset `begin`."""
        return os.pread(self._descriptor, size, begin)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The byte offset of every whole line, and the line with its newline."""
        at, held = 0, b""
        while piece := os.pread(self._descriptor, _STEP, at + len(held)):
            *whole, held = (held + piece).split(b"\n")
            for line in whole:
                yield at, line + b"\n"
                at += len(line) + 1

    def truncate(self, size: int) -> None:
        """Cut the file after `size` bytes."""
        os.ftruncate(self._descriptor, size)
        self.size, self._is_dirty = size, True

    def sync(self) -> None:
        """Wait until everything appended is on disk."""
        if not self._is_dirty:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._is_dirty = False

    def close(self) -> None:
        """Close the file; does nothing if it is closed already."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
