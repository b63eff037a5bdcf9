"""Has an engine evaluate what the cases say, again and again.

An engine with a model in it and cases come in; a `Result` for each goes out as soon as it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from qwenctl.bench.cases import Case, Result
from qwenctl.bench.energy import Meter


class MeasuringEngine(Protocol):
    """What is needed of an engine; see `engine.client.Engine`."""

    def measure(self, *, prompt: int = 0, generate: int = 0, depth: int = 0) -> float:
        """The seconds that so many tokens take."""


def run(
    engine: MeasuringEngine, cases: Sequence[Case], repetitions: int, meter: Meter | None, tell: Callable[[str], None]
) -> Iterator[Result]:
    """The cases, each after one run of it that does not count, as llama-bench does it. Raises QwenctlError."""
    for case in cases:
        tell(f"{case.name}: warming up")
        engine.measure(prompt=case.prompt, generate=min(case.generate, 1), depth=case.depth)
        seconds, joules = [], []
        for number in range(repetitions):
            tell(f"{case.name}: {number + 1} of {repetitions}")
            start, before = time.perf_counter(), meter.read() if meter else {}
            seconds.append(engine.measure(prompt=case.prompt, generate=case.generate, depth=case.depth))
            if meter:  # its power, over the time that counts: it also ran while the depth was read
                joules.append(meter.since(before) * seconds[-1] / (time.perf_counter() - start))
        yield Result(case, tuple(seconds), tuple(joules))
