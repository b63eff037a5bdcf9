"""How many threads compute: all, or fewer while other programs keep the processors busy.

Each step of a graph ends with the slowest thread. Beside a busy program one of them waits for its turn, and all others
for it: with as many threads as there are processors, a small model then takes a hundred times as long, and one thread
alone is the fastest. How often the system took a processor away from this process tells when that is so; which number
is the fastest is then tried. Where nobody is in the way nothing is tried, and nothing is lost.

Steps come in, and a number of threads goes to `use`. Decoding and the reading of prompts have a number each.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 0.05  # what is computed in so long is measured together, or one step that takes longer
_SWITCHES_A_SECOND = 50  # of a thread: beside a busy program it is 60 to 200, alone 2 to 30
# A batch of a prompt that takes longer than this is not one of those that other programs slow down most.
LONGEST_TRIED_S = 0.25
_GAIN = 1.05  # how much faster fewer threads must be
_LONGEST_WAIT = 256  # windows: 13 seconds or more
_HURRY = 16  # windows of waiting that one counts for in which nobody was in the way


def involuntary_switches() -> int:
    """How often a thread of this process lost its processor while it had work to do."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class ThreadCount:
    """The number of threads for one kind of work, `most` at first. Halves of it are tried beside other programs.

    Nothing is tried with steps that take longer than `longest_step_s`: they are not the small ones at whose ends the
    threads lose their time, and a try would cost much. With `is_fixed` the number never changes.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], None],
        *,
        is_fixed: bool = False,
        longest_step_s: float = math.inf,
        switches: Callable[[], int] = involuntary_switches,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counts = [most]
        while self._counts[-1] > 1 and not is_fixed:
            self._counts.append(self._counts[-1] // 2)
        self._use, self._switches, self._clock = use, switches, clock
        self._longest_step_s = longest_step_s
        self._at = 0  # in the list of counts
        self._is_trying = False
        self._rates: list[float] = []  # tokens a second by count, as they are tried
        self._patience = self._wait = 0  # windows until all are tried again, and between the last two times
        self._tokens = self._steps = self._seen = 0  # of the window
        self._began = 0.0

    @property
    def current(self) -> int:
        """The threads in use."""
        return self._counts[self._at]

    def begin(self) -> None:
        """Steps of this kind of work follow."""
        self._use(self.current)
        self._open_window(self._clock(), self._switches())

    def step(self, tokens: int = 1) -> None:
        """So many tokens are done."""
        self._tokens += tokens
        self._steps += 1
        now = self._clock()
        if now - self._began < _WINDOW_S or len(self._counts) == 1:
            return
        seconds, switches = now - self._began, self._switches()
        if self._is_trying or seconds / self._steps <= self._longest_step_s:
            most_alone = _SWITCHES_A_SECOND * seconds * self.current
            self._decide(self._tokens / seconds, is_crowded=switches - self._seen > most_alone)
        self._open_window(now, switches)

    def _open_window(self, now: float, switches: int) -> None:
        self._tokens = self._steps = 0
        self._began, self._seen = now, switches

    def _decide(self, rate: float, *, is_crowded: bool) -> None:
        """What follows from a window with `rate` tokens a second."""
        if self._is_trying:
            self._go_on_trying(rate)
        elif not is_crowded and not self._at:
            self._patience, self._wait = max(0, self._patience - 1), max(0, self._wait - 1)
        elif self._patience > 0:
            self._patience -= 1 if is_crowded else _HURRY
        else:
            self._is_trying, self._rates = True, []
            if self._at:
                self._go(0)
            else:
                self._go_on_trying(rate)

    def _go_on_trying(self, rate: float) -> None:
        """From all threads down, as long as fewer are not much slower; then the most that are about the fastest."""
        self._rates.append(rate)
        best = max(self._rates)
        if len(self._rates) < len(self._counts) and rate > best / 2:
            self._go(len(self._rates))
            return
        self._go(next(at for at, found in enumerate(self._rates) if found * _GAIN >= best))
        self._is_trying = False
        self._patience = self._wait = min(2 * self._wait + 1, _LONGEST_WAIT)

    def _go(self, at: int) -> None:
        if at != self._at:
            self._at = at
            self._use(self.current)


@dataclass(frozen=True)
class Threads:
    """The threads of a model: those that make an answer, and those that read a prompt."""

    decoding: ThreadCount
    reading: ThreadCount
