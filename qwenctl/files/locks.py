"""Inter-process locks: one process at a time per model or output, with a file that names the holder.

A path comes in; a held lock goes out. The lock file contains the holder's PID and start time (Unix seconds). The lock
ends with the process, however it ends. On a file system without locks two processes may run at once; corrupt results
are still caught by their hashes. What is locked is not known here.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quantize.file_system import AlreadyLocked, open_locked, write_all
from qwenctl.errors import ExitCode, QwenctlError

_POLL_SECONDS = 0.2
_HOLDER = re.compile(rb"(\d+ \d+\n)?")  # what a process writes into its lock file
_HOLDER_BYTES = 60


@contextmanager
def file_lock(
    path: Path,
    wait: float | None,
    notify: Callable[[str], None],
    does: str = "is pulling this model",
    hint: str = "wait, or `--wait 0` to stop now",
) -> Iterator[bool]:
    """Hold the lock `path` inside the block; yields whether it had to wait for another process.

    `wait` is the timeout in seconds; None waits as long as it takes. `notify` is called once with the holder and what
    it `does`. Raises QwenctlError (TRY_AGAIN, with `hint`) on timeout, or (CANNOT_CREATE) for a file with
    other contents; and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    started, waited = time.monotonic(), False
    while True:
        try:
            file = open_locked(path)
        except AlreadyLocked as held:
            holder = _describe_holder(held.content)
        else:
            with file:
                content = os.pread(file.fileno(), _HOLDER_BYTES + 1, 0)
                if len(content) > _HOLDER_BYTES or not _HOLDER.fullmatch(content):
                    what = f"{path} exists, and is no lock of qwenctl's"
                    raise QwenctlError(what, f"move {path.name} away", ExitCode.CANNOT_CREATE)
                _write_holder(file.fileno())
                try:
                    yield waited
                finally:
                    path.unlink(missing_ok=True)
            return
        if wait is not None and time.monotonic() - started >= wait:
            raise QwenctlError(f"{holder} {does}", hint, ExitCode.TRY_AGAIN)
        if not waited:
            notify(f"waiting: {holder} {does}")
        waited = True
        time.sleep(_POLL_SECONDS)


def _write_holder(descriptor: int) -> None:
    """Write PID and start time (Unix seconds), for the messages of waiting processes."""
    os.ftruncate(descriptor, 0)
    write_all(descriptor, f"{os.getpid()} {time.time():.0f}\n".encode(), 0)


def _describe_holder(content: bytes) -> str:
    """Describe the process that wrote `content` to its lock file, and for how long it has run, for a message."""
    # The holder may be about to write: anything but two numbers is described without details.
    fields = content[:100].split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return "another qwenctl"
    return f"another qwenctl (pid {int(fields[0])}, {_format_duration(time.time() - int(fields[1]))})"


def _format_duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
