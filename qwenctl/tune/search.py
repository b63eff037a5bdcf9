"""Measure candidates, combine the best of each group, and compare the result with the untuned plan.

First each candidate is measured once, on top of the best so far. The best combination is then measured against the plan
in rounds, alternating which comes first, so that a busy moment affects both; it wins only by more than noise.
Everything ends within a time limit, in which time for the rounds is reserved.
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

MIN_ROUNDS = 3
_MIN_GAIN, _MIN_STANDARD_ERRORS = 1.01, 2.0  # a result wins with a gain of 1 % and two standard errors


@dataclass(frozen=True)
class Comparison:
    """`gain` is the speed of the other relative to the base: the geometric mean over the rounds."""

    gain: float
    is_faster: bool


def compare_rounds(base: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare the seconds of paired rounds; with fewer than `MIN_ROUNDS`, `is_faster` is False.

    The mean log ratio must exceed log(`_MIN_GAIN`) and `_MIN_STANDARD_ERRORS` standard errors.
    """
    # Ratios are averaged as logs, so that twice as fast and half as fast cancel out.
    logs = [math.log(base_s / other_s) for base_s, other_s in zip(base, other, strict=True)]
    if not logs:
        return Comparison(1.0, is_faster=False)
    mean = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    is_faster = len(logs) >= MIN_ROUNDS and mean >= math.log(_MIN_GAIN) and mean > _MIN_STANDARD_ERRORS * error
    return Comparison(math.exp(mean), is_faster)


_MAX_ROUNDS = 7
_MIN_TRIAL_GAIN = 1.01  # a first measurement below this does not make a candidate the best so far

# Loads the model under these constraints and returns the seconds of a turn. Raises QwenctlError if it cannot be loaded.
Measure = Callable[[PlacementConstraints], float]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One measurement: the `name` of what was measured, and the seconds of a turn.

    `seconds` is None if the model could not be loaded; `why_not` is the error then.
    """

    name: str
    seconds: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Tuning:
    """The outcome of a search: `changes` of constraints (empty: the plan stays) and the `names` of their candidates.

    `verdict` compares the best combination with the plan over `rounds`; `is_complete` if all candidates were measured.
    """

    changes: dict[str, Any]
    names: tuple[str, ...]
    verdict: Comparison
    rounds: int
    trials: tuple[Trial, ...]
    is_complete: bool


@dataclass
class _TimeBudget:
    """The time limit, and how long measurements take: in seconds, for the plan and for the fastest candidate.

    `end` is in seconds of `time.monotonic`; `trials` collects all measurements.
    """

    end: float
    planned: float = 0.0
    shortest: float = 0.0
    trials: list[Trial] = field(default_factory=list)

    def has_time_for(self, rounds: int, others: int = 0) -> bool:
        """Whether `rounds` fit into the time left, after `others` more measurements.

        A measurement is assumed to be as short as the shortest one: slower candidates do not get to the rounds.
        """
        return time.monotonic() + rounds * (self.planned + self.shortest) + others * self.shortest <= self.end

    def measure(self, name: str, measure: Measure, constraints: PlacementConstraints, notify: Notify) -> float | None:
        """Measure and record a trial; return the seconds of a turn, or None if the model cannot be loaded."""
        notify(name)
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
    notify: Notify,
) -> Tuning:
    """Find changes of `base` that make a turn faster, within `limit_s` seconds; `notify` gets each trial's name.

    Raises QwenctlError if the model cannot be loaded under `base` itself.
    """
    budget = _TimeBudget(time.monotonic() + limit_s)
    first = budget.measure("as planned", measure, base, notify)
    if first is None:
        raise QwenctlError(f"the model cannot be loaded as planned: {budget.trials[0].why_not}", "qwenctl doctor")
    best, best_seconds, names, is_complete = base, first, tuple[str, ...](), True
    for changes in dimensions:
        for change, constraints in _apply_candidates(best, changes):
            if not budget.has_time_for(MIN_ROUNDS, others=1):
                is_complete = False
                break
            seconds = budget.measure(change.name, measure, constraints, notify)
            if seconds is not None and seconds * _MIN_TRIAL_GAIN < best_seconds:
                best, best_seconds, chosen = constraints, seconds, change.name
                names = (*(name for name in names if name not in {candidate.name for candidate in changes}), chosen)
    if best == base:
        return Tuning({}, (), Comparison(1.0, is_faster=False), 0, tuple(budget.trials), is_complete)
    rounds = list(_run_rounds(base, best, measure, budget, notify))
    comparison = compare_rounds([plan_s for plan_s, _ in rounds], [best_s for _, best_s in rounds])
    changes_ = _changed_fields(base, best) if comparison.is_faster else {}
    is_complete = is_complete and len(rounds) >= MIN_ROUNDS
    return Tuning(
        changes_, names if comparison.is_faster else (), comparison, len(rounds), tuple(budget.trials), is_complete
    )


def _apply_candidates(
    best: PlacementConstraints, changes: tuple[Candidate, ...]
) -> Iterator[tuple[Candidate, PlacementConstraints]]:
    """Yield each candidate applied to `best`, the result of the groups before: one group contributes one change."""
    for change in changes:
        yield change, replace(best, **dict(change.fields))


def _run_rounds(
    base: PlacementConstraints, best: PlacementConstraints, measure: Measure, budget: _TimeBudget, notify: Notify
) -> Iterator[tuple[float, float]]:
    """Yield pairs of seconds (plan, best), alternating which is measured first, while there is time."""
    for number in range(_MAX_ROUNDS):
        if not budget.has_time_for(1):
            return
        pair = {}
        for name, constraints in (("as planned", base), ("tuned", best))[:: 1 if number % 2 == 0 else -1]:
            seconds = budget.measure(f"{name}, round {number + 1}", measure, constraints, notify)
            if seconds is None:
                return
            pair[name] = seconds
        yield pair["as planned"], pair["tuned"]


def _changed_fields(base: PlacementConstraints, best: PlacementConstraints) -> dict[str, Any]:
    names = [name for name in PlacementConstraints.__dataclass_fields__ if getattr(base, name) != getattr(best, name)]
    return {name: getattr(best, name) for name in names}
