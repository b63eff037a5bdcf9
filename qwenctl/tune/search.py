"""Tries candidates, keeps the best of each kind, and lets them compete with the untuned plan at the end.

First each candidate is measured once, beside the best so far. What came out best then runs against the plan in rounds,
one after the other and in changing order, so that a busy moment weighs on both; it wins only by more than noise. All of
it ends within a time limit: what is left of it is kept for the rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwenctl.errors import QwenctlError
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.tune.candidates import Candidate

LEAST_ROUNDS = 3
_LEAST_GAIN, _ERRORS = 1.01, 2.0


@dataclass(frozen=True)
class Comparison:
    """`gain` is how many times as fast the other is: the geometric mean over the rounds."""

    gain: float
    is_faster: bool


def verdict(base: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare the seconds of rounds. Too few rounds show nothing."""
    logs = [math.log(one / two) for one, two in zip(base, other, strict=True)]
    if not logs:
        return Comparison(1.0, is_faster=False)
    mean = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    enough = len(logs) >= LEAST_ROUNDS and mean >= math.log(_LEAST_GAIN) and mean > _ERRORS * error
    return Comparison(math.exp(mean), enough)


_MOST_ROUNDS = 7
_WORTH_A_LOOK = 1.01  # a first measurement below this does not make a candidate the best so far

Measure = Callable[
    [PlacementConstraints], float
]  # loads the model as these wishes say, and gives the seconds of a turn
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One measurement: what was changed, the seconds of a turn, None where it could not be loaded."""

    name: str
    seconds: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Tuning:
    """What came of it. `changes` is empty where the plan stays as it is; `verdict` is that of the last rounds."""

    changes: dict[str, Any]
    names: tuple[str, ...]
    verdict: Comparison
    rounds: int
    trials: tuple[Trial, ...]
    is_complete: bool


@dataclass
class _Clock:
    """What of the time limit is left, and what measurements take: that of the plan, and the shortest of the others."""

    end: float
    planned: float = 0.0
    shortest: float = 0.0
    trials: list[Trial] = field(default_factory=list)

    def has_time_for(self, rounds: int, others: int = 0) -> bool:
        """Whether so many rounds fit, and `others` measurements before them. What takes long loses anyway."""
        return time.monotonic() + rounds * (self.planned + self.shortest) + others * self.shortest <= self.end

    def measured(self, name: str, measure: Measure, constraints: PlacementConstraints, tell: Tell) -> float | None:
        """The seconds of a turn; None where the model cannot be loaded so."""
        tell(name)
        start = time.monotonic()
        try:
            seconds = measure(constraints)
        except QwenctlError as error:
            self.trials.append(Trial(name, None, error.message))
            return None
        took = time.monotonic() - start
        if not self.planned:
            self.planned = took
        else:
            self.shortest = min(self.shortest or took, took)
        self.trials.append(Trial(name, seconds))
        return seconds


def search(
    base: PlacementConstraints,
    dimensions: Iterable[tuple[Candidate, ...]],
    measure: Measure,
    limit_s: float,
    tell: Tell,
) -> Tuning:
    """Find changes of `base` that make a turn faster. Raises QwenctlError if `base` itself cannot be loaded."""
    clock = _Clock(time.monotonic() + limit_s)
    first = clock.measured("as planned", measure, base, tell)
    if first is None:
        raise QwenctlError(f"the model cannot be loaded as planned: {clock.trials[0].why_not}", "qwenctl doctor")
    best, best_seconds, names, is_complete = base, first, tuple[str, ...](), True
    for changes in dimensions:
        for change, constraints in _worth_a_try(best, changes):
            if not clock.has_time_for(LEAST_ROUNDS, others=1):
                is_complete = False
                break
            seconds = clock.measured(change.name, measure, constraints, tell)
            if seconds is not None and seconds * _WORTH_A_LOOK < best_seconds:
                best, best_seconds, chosen = constraints, seconds, change.name
                names = (*(name for name in names if name not in {one.name for one in changes}), chosen)
    if best == base:
        return Tuning({}, (), Comparison(1.0, is_faster=False), 0, tuple(clock.trials), is_complete)
    rounds = list(_rounds(base, best, measure, clock, tell))
    found = verdict([one for one, _ in rounds], [other for _, other in rounds])
    changes_ = _differences(base, best) if found.is_faster else {}
    is_complete = is_complete and len(rounds) >= LEAST_ROUNDS
    return Tuning(changes_, names if found.is_faster else (), found, len(rounds), tuple(clock.trials), is_complete)


def _worth_a_try(
    best: PlacementConstraints, changes: tuple[Candidate, ...]
) -> Iterator[tuple[Candidate, PlacementConstraints]]:
    """Each change, made to the best before this kind of change: of one kind only one can hold."""
    for change in changes:
        yield change, replace(best, **dict(change.fields))


def _rounds(
    base: PlacementConstraints, best: PlacementConstraints, measure: Measure, clock: _Clock, tell: Tell
) -> Iterator[tuple[float, float]]:
    """Pairs of seconds, of the plan and of the best, the one first that was second before."""
    for number in range(_MOST_ROUNDS):
        if not clock.has_time_for(1):
            return
        pair = {}
        for name, constraints in (("as planned", base), ("tuned", best))[:: 1 if number % 2 == 0 else -1]:
            seconds = clock.measured(f"{name}, round {number + 1}", measure, constraints, tell)
            if seconds is None:
                return
            pair[name] = seconds
        yield pair["as planned"], pair["tuned"]


def _differences(base: PlacementConstraints, best: PlacementConstraints) -> dict[str, Any]:
    names = [name for name in PlacementConstraints.__dataclass_fields__ if getattr(base, name) != getattr(best, name)]
    return {name: getattr(best, name) for name in names}
