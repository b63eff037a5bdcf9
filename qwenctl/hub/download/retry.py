"""How long a fetch goes on trying: pauses between attempts, what a server asks to wait, and when to give up.

All connections of a fetch share one `RetryPolicy`. It gives up when no byte has come on any of them for a while,
however often they tried; each byte that comes starts the clock anew. Pauses double from attempt to attempt.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.http_retry import backoff_seconds
from qwenctl.hub.download.http_errors import RetryableError, Unreachable

_FIRST_ATTEMPTS = 5  # 3 seconds


_T = TypeVar("_T")


class RetryPolicy:
    """The clock of one fetch. `stop` ends all pauses; `tell` hears why nothing comes, and "" when it comes again.

    As long as the server has not been `reached` there are a few attempts only: the name or the network may be wrong.
    """

    def __init__(
        self, limit: float, stop: threading.Event, tell: Callable[[str], None], *, reached: bool = False
    ) -> None:
        self._limit, self._stop, self._tell = limit, stop, tell
        self._lock = threading.Lock()
        self._since: float | None = None  # the first trouble after the last byte
        self._paused_until = 0.0
        self._retries = 0
        self._reached = reached

    def progress(self) -> None:
        """A byte has come."""
        self._since = None
        if self._retries or not self._reached:
            with self._lock:
                self._retries, self._reached = 0, True
            self._tell("")

    def wait_before_retry(self, trouble: RetryableError, attempt: int) -> None:
        """Wait before the attempt after `attempt` (from 0). Raises QwenctlError when it is time to give up."""
        with self._lock:
            self._retries += 1
            now = time.monotonic()
            since = self._since = self._since or now
            if trouble.wait is not None:
                self._ask_for(trouble.wait, trouble.status, now)
            elif not self._reached and attempt + 1 >= _FIRST_ATTEMPTS:
                raise Unreachable(trouble.reason)
            elif now - since > self._limit:
                raise self._given_up()
            until = max(now + backoff_seconds(attempt), self._paused_until)
        self._tell(_note(trouble, until - now))
        self._stop.wait(until - now)

    def call(self, ask: Callable[[], _T]) -> _T:
        """What `ask` returns, asked again as long as it raises RetryableError. Raises QwenctlError."""
        for attempt in itertools.count():
            try:
                answer = ask()
            except RetryableError as trouble:
                self.wait_before_retry(trouble, attempt)
            else:
                self.progress()
                return answer
        raise AssertionError("unreachable")

    def _ask_for(self, seconds: float, status: int, now: float) -> None:
        """All connections wait, and the time does not count."""
        if seconds > self._limit:
            raise QwenctlError(
                _asks(seconds, status),
                f"`--patience {seconds:.0f}` waits automatically; a token raises the limit",
                ExitCode.TRY_AGAIN,
            )
        self._paused_until = max(self._paused_until, now + seconds)
        self._since = self._paused_until

    def _given_up(self) -> QwenctlError:
        span = f"{self._limit / 60:.0f} min" if self._limit >= 60 else f"{self._limit:.0f} s"
        return QwenctlError(
            f"no progress for {span} after {self._retries} retries", "run again to continue", ExitCode.TRY_AGAIN
        )


def make_retry_policy(limit: float, tell: Callable[[str], None]) -> RetryPolicy:
    """A policy for single requests before a fetch; `tell` hears for what it waits."""
    return RetryPolicy(limit, threading.Event(), lambda note: tell(f"waiting: {note}") if note else None)


def _note(trouble: RetryableError, pause: float) -> str:
    """Why nothing comes for a while, if it is long enough to be noticed."""
    if trouble.wait is not None:
        return _asks(trouble.wait, trouble.status)
    return f"{trouble.reason}: next try in {pause:.0f} s" if pause >= 1 else ""


def _asks(seconds: float, status: int) -> str:
    return f"the Hub asks to wait {seconds:.0f} s ({status})"
