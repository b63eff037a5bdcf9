"""Write files atomically (completely or not at all), readable by their owner only unless asked otherwise.

Bytes or JSON objects come in; files go out. What the files contain is not known here. A file is written as
`NAME.pidN.part` of process N, which holds a lock on it; what killed processes left is deleted at the next write.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from quantize.file_system import replace_files, try_lock
from quantize.foreign_json import BadJSON, read_json_object

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def temp_dir_path() -> Path:
    """A random path for a temporary folder; the caller creates it when it is needed."""
    return Path(tempfile.gettempdir()) / f"qwenctl-{secrets.token_hex(8)}"


@contextmanager
def atomic_write(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends, or is deleted if it raises. Raises OSError.

    The temporary file is new: a file or link that somebody else has put there is not written. A link at `path` is
    replaced itself, not what it leads to.
    """
    remove_abandoned(path)
    temporary = path.with_name(f"{path.name}.pid{os.getpid()}.part")
    try:
        descriptor = os.open(temporary, _NEW_FILE, mode)
    except FileExistsError:
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.pid{os.getpid()}.part")
        descriptor = os.open(temporary, _NEW_FILE, mode)
    try:
        with open(descriptor, "wb") as file:
            try_lock(descriptor)  # tells other machines and containers that the process lives
            yield file
            # Sync before the rename: after a power failure the new name must not lead to missing data.
            file.flush()
            os.fsync(descriptor)
            replace_files([(temporary, path)])
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(path: Path) -> None:
    """Delete the temporary files that killed processes left next to `path`, as far as that is possible.

    Older versions named theirs `NAME.N.part`, which others may do as well: these only go if NAME is that of `path`.
    """
    pattern = re.compile(rf"(?:.+\.pid|{re.escape(path.name)}\.)(\d+)\.part", re.DOTALL)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            if found and int(found[1]) != os.getpid() and not _is_running(int(found[1])):
                _remove_unlocked(entry.path)


def _is_running(pid: int) -> bool:
    """Whether this machine has a process `pid`, whosever it is."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _remove_unlocked(path: str) -> None:
    """Delete a regular file of this user that no process has locked. Raises nothing."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
            if is_own and try_lock(descriptor, without_locks=False):
                os.unlink(path)
        finally:
            os.close(descriptor)


def write_private(path: Path, data: bytes) -> None:
    """Atomically replace `path` with `data`, readable by the owner only. Raises OSError."""
    with atomic_write(path) as file:
        file.write(data)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or contains anything else."""
    try:
        return read_json_object(path)
    except (OSError, BadJSON):
        return {}


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically replace `path` with `value` as JSON. Raises OSError."""
    write_private(path, json.dumps(value, indent=1).encode())
