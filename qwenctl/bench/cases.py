"""What is measured, with llama-bench's names, and what came of it.

Frozen values; nothing is measured here.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qwenctl.bench.energy import Meter
from qwenctl.protocol.placement import CPU

if TYPE_CHECKING:  # it imports gguf, and `config show` has the counts of a benchmark read
    from qwenctl.placement.plan import MemoryPlan, Plan

_MOST = 10_000_000  # tokens, more than any context holds
_MOST_VALUES = 1000


@dataclass(frozen=True)
class BenchCase:
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

    case: BenchCase
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


def all_cases(prompts: Sequence[int], generates: Sequence[int], depths: Sequence[int]) -> Iterator[BenchCase]:
    """Every combination, in llama-bench's order; 0 tokens are not measured."""
    for depth in dict.fromkeys(depths):
        yield from (BenchCase(prompt, 0, depth) for prompt in dict.fromkeys(prompts) if prompt)
        yield from (BenchCase(0, generate, depth) for generate in dict.fromkeys(generates) if generate)


def parse_counts(text: str) -> tuple[int, ...]:
    """The numbers of a list in llama-bench's way: 512,1024 and 0-8192+2048 and 128-1024*2. Raises ValueError."""
    found: list[int] = []
    for item in text.split(","):
        parsed = re.fullmatch(r"(\d{1,8})(?:-(\d{1,8})(?:([+*])(\d{1,8}))?)?", item.strip())
        if not parsed:
            raise ValueError(f"{item.strip()!r} is neither a number nor a range such as 0-8192+2048 or 128-1024*2")
        first, last = int(parsed[1]), int(parsed[2] or parsed[1])
        found += _range(first, last, parsed[3] or "+", int(parsed[4] or 1))
        if max(found, default=0) > _MOST or len(found) > _MOST_VALUES:
            raise ValueError(f"{item.strip()!r} is too large")
    return tuple(dict.fromkeys(found))


def _range(first: int, last: int, sign: str, step: int) -> Iterator[int]:
    if first > last or (sign == "*" and (step < 2 or not first)) or not step:
        raise ValueError(f"{first}-{last}{sign}{step} never ends")
    value = first
    for _ in range(_MOST_VALUES + 1):
        if value > last:
            return
        yield value
        value = value * step if sign == "*" else value + step


class MeasuringEngine(Protocol):
    """What is needed of an engine; see `engine.client.Engine`."""

    def measure(self, *, prompt: int = 0, generate: int = 0, depth: int = 0) -> float:
        """The seconds that so many tokens take."""


def run(
    engine: MeasuringEngine,
    cases: Sequence[BenchCase],
    repetitions: int,
    meter: Meter | None,
    tell: Callable[[str], None],
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


_EXPERTS = "routed experts"


def expert_layers(memory: MemoryPlan) -> set[int]:
    """The layers of which experts lie in a memory, by the ranges that its plan tells."""
    texts = ", ".join(part.layers for part in memory.parts if part.kind == _EXPERTS)
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", texts):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def sweep_points(plan: Plan, most: int) -> list[tuple[int, int]]:
    """Pairs of layers with all experts on GPUs and the `--n-cpu-moe` for it, at most `most` of them, in rising order.

    None where a model has no experts, or a machine no GPU.
    """
    in_ram = set().union(*(expert_layers(memory) for memory in plan.memories if memory.name == CPU))
    on_devices = set().union(*(expert_layers(memory) for memory in plan.memories if memory.name != CPU))
    every, whole = in_ram | on_devices, len(on_devices - in_ram)
    if not on_devices:
        return []
    counts = sorted({round(whole * number / (most - 1)) for number in range(most)}) if most > 1 else [whole]
    return [(count, max(every) + 1 - count) for count in counts]
