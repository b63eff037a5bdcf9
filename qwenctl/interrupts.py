"""Ctrl-C: once stops what the engine does, twice within two seconds leaves; and where it must wait a moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

_LEAVE_WITHIN_S = 2.0


@contextmanager
def first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
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
def interrupts_held() -> Iterator[Callable[[], AbstractContextManager[None]]]:
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
