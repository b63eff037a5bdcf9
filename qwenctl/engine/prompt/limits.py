"""Bounds on what the code inside a model file may cost: a chat template is a program, and a hostile one never ends.

Inside the block, more than so many seconds of CPU time raise TimeoutError, and more than so much memory MemoryError.
Only for the main thread, and for Python code: what happens inside one call into a library is not interrupted.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil


@contextmanager
def limited(seconds: float, n_bytes: int) -> Iterator[None]:
    """Allow `seconds` of CPU time and `n_bytes` more memory than now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + n_bytes
    before = signal.signal(signal.SIGPROF, _time_is_up)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _time_is_up(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError
