"""Signal handlers: Ctrl-C once stops the engine's work, twice within two seconds quits; SIGTERM exits cleanly.

Each handler is a context manager that restores the previous one at its end. What is stopped is not known here.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

_QUIT_WITHIN_S = 2.0


@contextmanager
def cancel_on_sigint(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, a SIGINT calls `stop`; a second one within two seconds raises KeyboardInterrupt."""
    latest = float("-inf")

    def on_sigint(_signal: int, _frame: FrameType | None) -> None:
        nonlocal latest
        previous_time, latest = latest, time.monotonic()
        if latest - previous_time < _QUIT_WITHIN_S:
            raise KeyboardInterrupt
        stop()

    previous = signal.signal(signal.SIGINT, on_sigint)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def termination_as_exit(code: int) -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit with `code`, so that every `finally` block runs and the engine is stopped."""

    def on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(code)

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return
    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def defer_sigint() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Inside, SIGINT is held back, except in blocks of the yielded context manager.

    There, a SIGINT raises KeyboardInterrupt, and so does one that came before the block.
    """
    is_pending = False

    def on_sigint(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_pending
        is_pending = True

    @contextmanager
    def allow_sigint() -> Iterator[None]:
        nonlocal is_pending
        try:
            signal.signal(signal.SIGINT, previous)
            if is_pending:
                is_pending = False
                raise KeyboardInterrupt  # the signal came before this block
            yield
        finally:
            signal.signal(signal.SIGINT, on_sigint)

    previous = signal.signal(signal.SIGINT, on_sigint)
    try:
        yield allow_sigint
    finally:
        signal.signal(signal.SIGINT, previous)
