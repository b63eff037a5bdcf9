"""Tells an engine that hangs from one that works for long without a word.

Seconds of waiting and of the engine's processor time come in, a verdict goes out. Waiting is counted and not read from
a clock: a batch that was suspended for a night has not waited.
"""

from __future__ import annotations

from collections.abc import Callable

LONGEST_S = 900.0  # a batch of a prompt takes minutes on a slow machine, and more where weights come from a disk
_LEAST_WORK = 0.01  # of one core's time; even waiting for a disk takes more


class Silence:
    """The time since the engine said something last; `longest_s` without work mean that it hangs."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._seconds = self._worked = 0.0

    def end(self) -> None:
        """It has said something."""
        self._seconds = 0.0

    def is_hang(self, seconds: float, work_seconds: Callable[[], float]) -> bool:
        """Whether it hangs, now that `seconds` more have passed; `work_seconds` is its processor time so far."""
        if not self._seconds:
            self._worked = work_seconds()
        self._seconds += seconds
        if self._seconds < self._longest_s:
            return False
        self._seconds = 0.0
        return work_seconds() - self._worked < _LEAST_WORK * self._longest_s
