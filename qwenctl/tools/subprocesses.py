"""Read the output of another process until a deadline, and kill it together with its children.

Deadlines are in seconds of `time.monotonic`. What the bytes mean is not known here.
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

_CHUNK_BYTES = 65_536
_EXIT_TIMEOUT_S = 5.0


def read_chunks(streams: Sequence[IO[bytes]], deadline: float) -> Iterator[tuple[int, bytes]]:
    """Yield (index of the stream, bytes) as they arrive; empty bytes mark the end of a stream.

    Raises TimeoutError at `deadline`.
    """
    with selectors.DefaultSelector() as selector:
        for number, stream in enumerate(streams):
            selector.register(stream, selectors.EVENT_READ, number)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready and time.monotonic() >= deadline:
                raise TimeoutError
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK_BYTES)
                if not data:
                    selector.unregister(key.fileobj)
                yield key.data, data


def describe_exit(code: int | None) -> str:
    """Describe the return code of a process: its exit code, or the signal that killed it."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def kill_process_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill `process` and all processes in its session, wait until it has exited, and close its pipes.

    `process` must have been started with `start_new_session=True`.
    """
    if process.returncode is None:  # not waited for yet, so its PID cannot have been reused
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_TIMEOUT_S)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()
