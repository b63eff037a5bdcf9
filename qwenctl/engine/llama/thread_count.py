"""The number of threads that compute: all, or fewer while other programs keep the CPUs busy.

Each node of a graph ends when its slowest thread does. Next to a busy program one thread waits for its turn, and all
others wait for it: with as many threads as CPUs, a small model can take a hundred times as long, and a single thread is
the fastest. The number of involuntary context switches shows when that is the case; only then are fewer threads tried.
On an idle machine nothing is tried, and nothing is lost.

The evaluated tokens come in, and a number of threads goes to `set_threads`. Decoding and prefill have a number each.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 0.05  # steps are measured together for this long; a longer step is measured alone
_SWITCHES_PER_SECOND = 50  # per thread: 60 to 200 next to a busy program, 2 to 30 without one
# Prompt batches that take longer than this lose little to other programs.
LONGEST_TRIED_S = 0.25
_GAIN = 1.05  # a count this much slower than the best still counts as the best
_MAX_WAIT = 256  # windows, that is, at least 13 seconds
_IDLE_WINDOW_WEIGHT = 16  # a window without contention shortens the wait by this many windows


def involuntary_switches() -> int:
    """How often the threads of this process lost their CPU while they had work to do."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class ThreadCount:
    """The number of threads for one kind of work: `max_threads` at first, halves of it while other programs compete.

    Nothing is tried with steps longer than `longest_step_s`, in seconds: such steps lose little at their ends, and a
    trial would cost much. With `is_fixed` the number never changes.
    """

    def __init__(
        self,
        max_threads: int,
        set_threads: Callable[[int], None],
        *,
        is_fixed: bool = False,
        longest_step_s: float = math.inf,
        switches: Callable[[], int] = involuntary_switches,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counts = [max_threads]
        while self._counts[-1] > 1 and not is_fixed:
            self._counts.append(self._counts[-1] // 2)
        self._set_threads, self._switches, self._clock = set_threads, switches, clock
        self._longest_step_s = longest_step_s
        self._index = 0  # index in `_counts`
        self.current = max_threads  # the number of threads in use
        self._is_trying = False
        self._rates: list[float] = []  # tokens/s of the counts tried so far, in their order
        self._windows_left = self._wait_windows = 0  # windows until the next trial, and between the last two trials
        self._tokens = self._steps = self._switches_before = 0  # of the current window, and at its start
        self._began = 0.0

    def begin(self) -> None:
        """Start a series of steps: set the thread count again, since other work may have changed it."""
        self._set_threads(self.current)
        self._open_window(self._clock(), self._switches())

    def step(self, tokens: int = 1) -> None:
        """Record a finished step of `tokens` tokens; at the end of a window, decide on the thread count."""
        self._tokens += tokens
        self._steps += 1
        now = self._clock()
        if now - self._began < _WINDOW_S or len(self._counts) == 1:
            return
        seconds, switches = now - self._began, self._switches()
        if self._is_trying or seconds / self._steps <= self._longest_step_s:
            max_switches = _SWITCHES_PER_SECOND * seconds * self.current
            self._decide(self._tokens / seconds, is_crowded=switches - self._switches_before > max_switches)
        self._open_window(now, switches)

    def _open_window(self, now: float, switches: int) -> None:
        self._tokens = self._steps = 0
        self._began, self._switches_before = now, switches

    def _decide(self, rate: float, *, is_crowded: bool) -> None:
        """Decide what follows a window with `rate` tokens/s.

        In this order: continue a trial; do nothing if all threads run undisturbed; wait for the next trial; start it. A
        trial starts with all threads, so if fewer are in use, its first window is the next one.
        """
        if self._is_trying:
            self._continue_trial(rate)
        elif not is_crowded and not self._index:
            self._windows_left, self._wait_windows = max(0, self._windows_left - 1), max(0, self._wait_windows - 1)
        elif self._windows_left > 0:
            self._windows_left -= 1 if is_crowded else _IDLE_WINDOW_WEIGHT
        else:
            self._is_trying, self._rates = True, []
            if self._index:
                self._select(0)
            else:
                self._continue_trial(rate)

    def _continue_trial(self, rate: float) -> None:
        """Record the rate of the current count; try half of it, or finish the trial.

        The trial ends when all counts are tried or the rate falls to half of the best; then the highest count whose
        rate is about the best is used.
        """
        self._rates.append(rate)
        best = max(self._rates)
        if len(self._rates) < len(self._counts) and rate > best / 2:
            self._select(len(self._rates))
            return
        self._select(next(at for at, tried in enumerate(self._rates) if tried * _GAIN >= best))
        self._is_trying = False
        self._windows_left = self._wait_windows = min(2 * self._wait_windows + 1, _MAX_WAIT)

    def _select(self, index: int) -> None:
        if index != self._index:
            self._index, self.current = index, self._counts[index]
            self._set_threads(self.current)


@dataclass(frozen=True)
class Threads:
    """The thread counts of a model: for decoding and for prefill."""

    decoding: ThreadCount
    prefill: ThreadCount
