"""What is measured, with llama-bench's names, and what came of it.

Frozen values; nothing is measured here.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MOST = 10_000_000  # tokens, more than any context holds
_MOST_VALUES = 1000


@dataclass(frozen=True)
class Case:
    """Tokens of a prompt, or tokens one by one, after `depth` tokens that do not count."""

    prompt: int
    generate: int
    depth: int

    @property
    def name(self) -> str:
        """llama-bench's: pp512, tg128, tg128 @ d4096."""
        what = f"pp{self.prompt}" if self.prompt else f"tg{self.generate}"
        return what + (f" @ d{self.depth}" if self.depth else "")

    @property
    def tokens(self) -> int:
        """Those that count."""
        return self.prompt + self.generate


@dataclass(frozen=True)
class Result:
    """The seconds of each repetition, and the joules where there is a meter."""

    case: Case
    seconds: tuple[float, ...]
    joules: tuple[float, ...] = ()

    @property
    def speeds(self) -> tuple[float, ...]:
        """Tokens a second of each repetition."""
        return tuple(self.case.tokens / seconds for seconds in self.seconds)

    @property
    def mean(self) -> float:
        """Tokens a second."""
        return statistics.fmean(self.speeds)

    @property
    def deviation(self) -> float:
        """The standard deviation of a sample, as llama-bench has it; 0 for a single one."""
        return statistics.stdev(self.speeds) if len(self.speeds) > 1 else 0.0

    @property
    def joules_a_token(self) -> float | None:
        """Of everything that the meter counts, while nothing but this was done on purpose."""
        return sum(self.joules) / (self.case.tokens * len(self.joules)) if self.joules else None


def all_cases(prompts: Sequence[int], generates: Sequence[int], depths: Sequence[int]) -> Iterator[Case]:
    """Every combination, in llama-bench's order; 0 tokens are not measured."""
    for depth in dict.fromkeys(depths):
        yield from (Case(prompt, 0, depth) for prompt in dict.fromkeys(prompts) if prompt)
        yield from (Case(0, generate, depth) for generate in dict.fromkeys(generates) if generate)


def parse_counts(text: str) -> tuple[int, ...]:
    """The numbers of a list in llama-bench's way: 512,1024 and 0-8192+2048 and 128-1024*2. Raises ValueError."""
    found: list[int] = []
    for item in text.split(","):
        parsed = re.fullmatch(r"(\d{1,8})(?:-(\d{1,8})(?:([+*])(\d{1,8}))?)?", item.strip())
        if not parsed:
            raise ValueError(f"{item.strip()!r} is no number, nor a range such as 0-8192+2048 or 128-1024*2")
        first, last = int(parsed[1]), int(parsed[2] or parsed[1])
        found += _range(first, last, parsed[3] or "+", int(parsed[4] or 1))
        if max(found, default=0) > _MOST or len(found) > _MOST_VALUES:
            raise ValueError(f"{item.strip()!r} is too much")
    return tuple(dict.fromkeys(found))


def _range(first: int, last: int, sign: str, step: int) -> Iterator[int]:
    if first > last or (sign == "*" and (step < 2 or not first)) or not step:
        raise ValueError(f"{first}-{last}{sign}{step} never comes to its end")
    value = first
    for _ in range(_MOST_VALUES + 1):
        if value > last:
            return
        yield value
        value = value * step if sign == "*" else value + step
