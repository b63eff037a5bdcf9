"""The retry policy of a download: exponential backoff, Retry-After, and when to give up.

`RetryableError`s come in; the policy waits, or raises a QwenctlError. All connections of a download share one
`RetryPolicy`. It gives up when no byte has arrived on any connection for a time limit, no matter how many attempts were
made; each byte resets the clock. Pauses double from attempt to attempt.
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

_ATTEMPTS_BEFORE_CONTACT = 5  # about 3 seconds in total


_T = TypeVar("_T")


class RetryPolicy:
    """The retry state of one download, shared by its threads; `limit` is the time without a byte, in seconds.

    `stop` ends all pauses. `notify` is called with the reason of a stall, and with "" when bytes arrive again. Until
    the server has been `reached` only a few attempts are made, because the name or the network may be wrong.
    """

    def __init__(
        self, limit: float, stop: threading.Event, notify: Callable[[str], None], *, reached: bool = False
    ) -> None:
        self._limit, self._stop, self._notify = limit, stop, notify
        self._lock = threading.Lock()
        self._stalled_since: float | None = None  # time of the first failure after the last byte
        self._paused_until = 0.0  # end of the pause that the server asked for, for all connections
        self._retries = 0
        self._reached = reached

    def record_progress(self) -> None:
        """Record that a byte has arrived, which resets the clock."""
        self._stalled_since = None
        if self._retries or not self._reached:  # called for every chunk, so the lock is taken only if needed
            with self._lock:
                self._retries, self._reached = 0, True
            self._notify("")

    def wait_before_retry(self, error: RetryableError, attempt: int) -> None:
        """Pause after `attempt` (from 0) failed with `error`. Raises QwenctlError when it is time to give up."""
        with self._lock:
            self._retries += 1
            now = time.monotonic()
            since = self._stalled_since = self._stalled_since or now
            if error.retry_after is not None:
                self._honor_retry_after(error.retry_after, error.status, now)
            elif not self._reached and attempt + 1 >= _ATTEMPTS_BEFORE_CONTACT:
                raise Unreachable(error.reason)
            elif now - since > self._limit:
                raise self._give_up_error()
            until = max(now + backoff_seconds(attempt), self._paused_until)
        self._notify(_describe_pause(error, until - now))
        self._stop.wait(until - now)

    def call(self, request: Callable[[], _T]) -> _T:
        """Call `request` until it does not raise RetryableError, and return its result. Raises QwenctlError."""
        for attempt in itertools.count():
            try:
                result = request()
            except RetryableError as error:
                self.wait_before_retry(error, attempt)
            else:
                self.record_progress()
                return result
        raise AssertionError("unreachable")

    def _honor_retry_after(self, seconds: float, status: int, now: float) -> None:
        """Pause all connections; the pause does not count toward the limit. Raises QwenctlError if it exceeds it."""
        if seconds > self._limit:
            raise QwenctlError(
                _describe_retry_after(seconds, status),
                f"`--patience {seconds:.0f}` waits automatically; a token raises the limit",
                ExitCode.TRY_AGAIN,
            )
        # Starting the stall only after the pause keeps the pause itself out of the limit.
        self._paused_until = max(self._paused_until, now + seconds)
        self._stalled_since = self._paused_until

    def _give_up_error(self) -> QwenctlError:
        span = f"{self._limit / 60:.0f} min" if self._limit >= 60 else f"{self._limit:.0f} s"
        return QwenctlError(
            f"no progress for {span} after {self._retries} retries", "run again to continue", ExitCode.TRY_AGAIN
        )


def make_retry_policy(limit: float, notify: Callable[[str], None]) -> RetryPolicy:
    """A retry policy for single requests before a download; `notify` is called with the reason of each wait."""
    return RetryPolicy(limit, threading.Event(), lambda reason: notify(f"waiting: {reason}") if reason else None)


def _describe_pause(error: RetryableError, pause: float) -> str:
    """Describe a pause of `pause` seconds; "" if it is too short to be noticed."""
    if error.retry_after is not None:
        return _describe_retry_after(error.retry_after, error.status)
    return f"{error.reason}: next try in {pause:.0f} s" if pause >= 1 else ""


def _describe_retry_after(seconds: float, status: int) -> str:
    return f"the Hub asks to wait {seconds:.0f} s ({status})"
