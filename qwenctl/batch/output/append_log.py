"""A file of lines that only grows: each line is appended by one write, and `sync` brings the file to disk.

If the process is killed, at worst the last line is torn; `lines` leaves it out. What the lines mean is not known here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from quantize.file_system import replace_files, try_lock, write_all
from qwenctl.files.atomic import remove_abandoned

_STEP = 1 << 20


class AppendLog:
    """The file at `path`, created if it does not exist. Every method raises OSError with the file name.

    Only with `follows_links` may `path` be a symbolic link; then it stays one.
    """

    def __init__(self, path: Path, *, follows_links: bool = False) -> None:
        self.path = path
        self._target = Path(os.path.realpath(path)) if follows_links else path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._target, flags, 0o666)
        self.size = os.fstat(self._descriptor).st_size
        self._is_dirty = False

    def append(self, line: bytes) -> int:
        """Append a line with its newline; its byte offset. If that fails, no part of the line remains."""
        begin = self.size
        self._is_dirty = True
        try:
            write_all(self._descriptor, line)
        except OSError as error:
            self.truncate(begin)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self.size += len(line)
        return begin

    def read(self, begin: int, size: int) -> bytes:
        """`size` bytes from the offset `begin`."""
        return os.pread(self._descriptor, size, begin)

    def lines(self, begin: int = 0) -> Iterator[tuple[int, bytes]]:
        """The byte offset of every whole line from the offset `begin` on, and the line with its newline."""
        at, held = begin, b""
        while piece := os.pread(self._descriptor, _STEP, at + len(held)):
            *whole, held = (held + piece).split(b"\n")
            for line in whole:
                yield at, line + b"\n"
                at += len(line) + 1

    def truncate(self, size: int) -> None:
        """Cut the file after `size` bytes."""
        os.ftruncate(self._descriptor, size)
        self.size, self._is_dirty = size, True

    def rewrite(self, pieces: Iterable[bytes]) -> None:
        """Replace the content by `pieces`, which may read this file: written beside it and renamed, at once or not.

        What a killed process has left beside it in the middle of this is deleted.
        """
        remove_abandoned(self._target)
        beside = self._target.with_name(f"{self._target.name}.{secrets.token_hex(4)}.pid{os.getpid()}.part")
        mode = os.fstat(self._descriptor).st_mode & 0o777
        smaller = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        size = 0
        try:
            try_lock(smaller)  # tells other machines and containers that the process lives
            for piece in pieces:
                write_all(smaller, piece)
                size += len(piece)
            os.fsync(smaller)
            replace_files([(beside, self._target)])
        except BaseException as error:
            os.close(smaller)
            beside.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise
        os.close(self._descriptor)
        self._descriptor, self.size, self._is_dirty = smaller, size, False

    def pieces(self, size: int) -> Iterator[bytes]:
        """The first `size` bytes, in pieces."""
        for begin in range(0, size, _STEP):
            yield os.pread(self._descriptor, min(_STEP, size - begin), begin)

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
