"""Files as every writer here needs them: locked, written in full, durably renamed, identified by their hash.

Paths come in; open files and hashes go out. What the files contain is not known here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

FileVersion = tuple[int, int]  # size in bytes, and time of the last change in nanoseconds


class AlreadyLocked(Exception):
    """Another process holds the lock; `content` is what it has written to the locked file."""

    def __init__(self, content: bytes) -> None:
        super().__init__("another process holds the lock")
        self.content = content


def open_locked(path: Path, flags: int = 0, mode: int = 0o644) -> FileIO:
    """Open `path`, created if it does not exist, and lock it until the file is closed or the process ends.

    `flags` are added for os.open. The holder may delete the file before closing it. Raises AlreadyLocked without
    waiting, and OSError.
    """
    while True:
        # O_NOFOLLOW: do not write through a symbolic link.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, mode)
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            if not try_lock(descriptor):
                raise AlreadyLocked(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            # A lock on a file that its holder deleted between our open and lock counts for nothing: open it again.
            if path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def try_lock(descriptor: int, *, without_locks: bool = True) -> bool:
    """Try to lock an open file without waiting; whether that succeeded.

    `without_locks` is the answer on a file system that has no locks, as some network mounts.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Inside the block, keep out all others that want to change a small file in `folder`; waits for them.

    The folder itself is locked, so nothing is left when a process is killed. Raises OSError if it cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks, as some network mounts
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of `data` at byte `offset`, or at the file's own position. Raises OSError.

    The system may write less than it was given, for example when a disk fills up; the next write tells the reason.
    """
    rest = memoryview(data).cast("B")
    while rest:
        written = os.write(descriptor, rest) if offset is None else os.pwrite(descriptor, rest, offset)
        if not written:
            raise OSError(errno.EIO, os.strerror(errno.EIO))  # else this would never end
        rest, offset = rest[written:], None if offset is None else offset + written


def replace_files(pairs: Iterable[tuple[Path, Path]]) -> None:
    """Rename each (old, new) path, replacing what has the new name; durable when it returns. Raises OSError."""
    folders = set()
    for old, new in pairs:
        os.replace(old, new)
        folders.add(new.parent)
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk: a rename is durable only then. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system cannot sync folders, as some network mounts
            raise
    finally:
        os.close(descriptor)


def file_version(status: os.stat_result) -> FileVersion:
    """What stands for the content of a file, as far as that is possible without reading it."""
    return status.st_size, status.st_mtime_ns


def write_attribute(path: Path, name: str, value: str) -> None:
    """Keep a short text with a file, as an extended attribute; nothing happens where the system has none of these."""
    if hasattr(os, "setxattr"):
        with suppress(OSError):  # a file system without attributes, or with less room for them
            os.setxattr(path, f"user.qwenctl.{name}", value.encode())


def read_attribute(path: Path, name: str) -> str:
    """What `write_attribute` kept with a file; "" if there is nothing."""
    if hasattr(os, "getxattr"):
        with suppress(OSError):
            return os.getxattr(path, f"user.qwenctl.{name}").decode("ascii", "replace")
    return ""


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
