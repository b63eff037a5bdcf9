"""One process at a time for one model or output: a locked file with the holder's number and when it began.

The lock ends with the process, however it ends. On a file system without locks two processes may work at once; then
the hashes still refuse what is wrong.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qwenctl.errors import ExitCode, QwenctlError

_POLL_SECONDS = 0.2


@contextmanager
def file_lock(
    path: Path,
    wait: float | None,
    tell: Callable[[str], None],
    does: str = "is pulling this model",
    hint: str = "wait, or `--wait 0` to stop now",
) -> Iterator[bool]:
    """Inside, no other process has `path`; whether it had to wait. `wait` is in seconds, None for as long as it takes.

    `tell` hears once for whom it waits, and what that one `does`. Raises QwenctlError when the time is over, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    began, waited = time.monotonic(), False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if _locked(descriptor) and _is_still(path, descriptor):
                _sign(descriptor)
                try:
                    yield waited
                finally:
                    path.unlink(missing_ok=True)
                return
            holder = _holder(descriptor)
        finally:
            os.close(descriptor)
        if wait is not None and time.monotonic() - began >= wait:
            raise QwenctlError(f"{holder} {does}", hint, ExitCode.TRY_AGAIN)
        if not waited:
            tell(f"waiting: {holder} {does}")
        waited = True
        time.sleep(_POLL_SECONDS)


def _locked(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks, such as some network mounts
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {time.time():.0f}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    """The process that has the lock, and for how long, in words."""
    words = os.pread(descriptor, 100, 0).split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return "another qwenctl"
    return f"another qwenctl (pid {int(words[0])}, {_span(time.time() - int(words[1]))})"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` is the open file: its holder may have removed it between the opening and the lock."""
    return path.exists() and os.path.samestat(os.stat(path), os.fstat(descriptor))
