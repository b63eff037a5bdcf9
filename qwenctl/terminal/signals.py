"""Signals: Ctrl-C once stops what the engine does, twice within two seconds leaves; SIGTERM ends in good order.

Each is a block after which the signal does what it did before.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

_LEAVE_WITHIN_S = 2.0


@contextmanager
def cancel_on_sigint(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the first SIGINT calls `stop`; one that follows within two seconds raises KeyboardInterrupt."""
    last = float("-inf")

    def interrupted(_signal: int, _frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before < _LEAVE_WITHIN_S:
            raise KeyboardInterrupt
        stop()

    previous = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def termination_as_exit(code: int) -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit with `code`: every `finally` is gone through, and the engine ends too."""

    def terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(code)

    if threading.current_thread() is not threading.main_thread():  # Python's signals are the main thread's business
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def defer_sigint() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Inside, a SIGINT waits; what is given lets it through, also one that has waited, as KeyboardInterrupt."""
    waits = False

    def interrupted(_signal: int, _frame: FrameType | None) -> None:
        nonlocal waits
        waits = True

    @contextmanager
    def let_through() -> Iterator[None]:
        nonlocal waits
        try:
            signal.signal(signal.SIGINT, previous)
            if waits:
                waits = False
                raise KeyboardInterrupt
            yield
        finally:
            signal.signal(signal.SIGINT, interrupted)

    previous = signal.signal(signal.SIGINT, interrupted)
    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, previous)
