"""Figures and their table: measured values, their range, and the goal.

Lists of values go in, one value per run; medians come out, with minimum and maximum. Nothing is measured here.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A bound that a median should meet; `sign` is "<=" or ">="."""

    sign: str
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether `value` is on the right side of the bound."""
        return value <= self.bound if self.sign == "<=" else value >= self.bound


@dataclass(frozen=True)
class Figure:
    """The `values` of one quantity, one per run; `against` is the peer or limit, `detail` the parts of the values."""

    what: str
    values: Sequence[float]
    goal: Goal | None
    against: str
    detail: str = ""

    @property
    def median(self) -> float:
        """The value that is quoted."""
        return statistics.median(self.values)


def at_most(bound: float) -> Goal:
    """A goal for a figure that should be small."""
    return Goal("<=", bound)


def at_least(bound: float) -> Goal:
    """A goal for a figure that should be large."""
    return Goal(">=", bound)


def ratio(
    what: str, ours: Sequence[float], theirs: Sequence[float], unit: str, goal: Goal | None, against: str
) -> Figure:
    """Ours divided by theirs, run by run, so that a busy moment of the machine affects both."""
    values = [our / their for our, their in zip(ours, theirs, strict=True)]
    detail = f"{_short(statistics.median(ours))} to {_short(statistics.median(theirs))} {unit}"
    return Figure(what, values, goal, against, detail)


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | median | lowest to highest | runs | goal | | against | medians |", "|---|" + "---|" * 7]
    for figure in figures:
        goal, met = "", ""
        if figure.goal:
            goal = f"{figure.goal.sign} {_short(figure.goal.bound)}"
            met = "met" if figure.goal.is_met(figure.median) else "**missed**"
        spread = f"{_short(min(figure.values))} to {_short(max(figure.values))}"
        cells = [figure.what, _short(figure.median), spread, str(len(figure.values)), goal, met]
        lines.append("| " + " | ".join([*cells, figure.against, figure.detail]) + " |")
    return "\n".join(lines)


def _short(value: float) -> str:
    """The value with three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
