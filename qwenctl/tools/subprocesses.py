"""Reads what another process says, no longer than until a point in time, and ends it with all that it has started.

Time is that of `time.monotonic`. What the bytes mean is not known here.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO

_CHUNK = 65_536
_GONE_WITHIN_S = 5.0


def read_chunks(streams: Sequence[IO[bytes]], until: float) -> Iterator[tuple[int, bytes]]:
    """What comes from `streams`, with the number of the stream; nothing comes as its end. Raises TimeoutError."""
    with selectors.DefaultSelector() as selector:
        for number, stream in enumerate(streams):
            selector.register(stream, selectors.EVENT_READ, number)
        while selector.get_map():
            left = until - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready and time.monotonic() >= until:
                raise TimeoutError
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fileobj)
                yield key.data, data


def exit_description(code: int | None) -> str:
    """How a process ended that has `code`."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def kill_process_tree(process: subprocess.Popen[bytes]) -> None:
    """End `process`, which leads a session of its own, and what it has started there, and wait until it is gone."""
    if process.returncode is None:  # it has not been waited for, so that its number is still its own
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GONE_WITHIN_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()
