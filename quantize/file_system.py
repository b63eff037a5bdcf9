"""Files as every writer here needs them: locked against other processes, durably renamed, identified by their hash.

Paths come in; open files and hashes go out. What the files contain is not known here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from io import FileIO
from pathlib import Path


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


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
