"""Signal handlers: Ctrl-C once stops the engine's work, twice within 2 s quits; SIGTERM and SIGHUP exit cleanly.

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

from qwenctl.errors import ExitCode

_QUIT_WITHIN_S = 2.0
TERMINATIONS = {signal.SIGTERM: ExitCode.TERMINATED, signal.SIGHUP: ExitCode.HUNG_UP}


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
def termination_as_exit() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise SystemExit with 143 and 129: every `finally` block runs, the engine is stopped.

    Only the first of them: another one must not interrupt what saves the work. SIGHUP stays ignored under nohup.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers in the main thread only
        yield
        return

    def on_termination(code: ExitCode) -> NoReturn:
        for number in TERMINATIONS:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(code)

    with handle_terminations(on_termination):
        yield


@contextmanager
def handle_terminations(handle: Callable[[ExitCode], NoReturn]) -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP call `handle` with their exit code, in the main thread; unless they are ignored."""

    def on_signal(number: int, _frame: FrameType | None) -> NoReturn:
        handle(TERMINATIONS[signal.Signals(number)])

    handled = [number for number in TERMINATIONS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, on_signal) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def requested_exit(error: BaseException | None) -> ExitCode | None:
    """The exit code of the signal that led to `error`: a write to a closed terminal may have failed on the way out."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, SystemExit) and isinstance(error.code, ExitCode):
            return error.code
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


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
