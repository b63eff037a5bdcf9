"""Benchmark cases with llama-bench's names, running them, and their results.

Counts of tokens and an engine come in; results in seconds and joules go out. How they are shown is not known here.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qwenctl.bench.energy import EnergyMeter
from qwenctl.protocol.placement import CPU

if TYPE_CHECKING:  # it imports gguf, which `config show`, a user of `parse_counts`, does not need
    from qwenctl.placement.plan import MemoryPlan, Plan

_MAX_TOKENS = 10_000_000  # tokens, more than any context holds
_MAX_COUNTS = 1000


@dataclass(frozen=True)
class BenchCase:
    """`prompt` tokens evaluated in batches, or `generate` tokens one by one, after `depth` untimed tokens."""

    prompt: int
    generate: int
    depth: int

    @property
    def name(self) -> str:
        """llama-bench's name for this case: pp512, tg128, tg128 @ d4096."""
        what = f"pp{self.prompt}" if self.prompt else f"tg{self.generate}"
        return what + (f" @ d{self.depth}" if self.depth else "")

    @property
    def tokens(self) -> int:
        """The number of timed tokens."""
        return self.prompt + self.generate


@dataclass(frozen=True)
class BenchResult:
    """Seconds and, with an energy meter, joules of each repetition of a case."""

    case: BenchCase
    seconds: tuple[float, ...]
    joules: tuple[float, ...] = ()

    @property
    def speeds(self) -> tuple[float, ...]:
        """Tokens/s of each repetition."""
        return tuple(self.case.tokens / seconds for seconds in self.seconds)

    @property
    def mean(self) -> float:
        """Mean speed in tokens/s."""
        return statistics.fmean(self.speeds)

    @property
    def deviation(self) -> float:
        """Sample standard deviation in tokens/s, as in llama-bench; 0 for a single repetition."""
        return statistics.stdev(self.speeds) if len(self.speeds) > 1 else 0.0

    @property
    def joules_per_token(self) -> float | None:
        """Joules per timed token of everything the meter covers, other load included; None without a meter."""
        return sum(self.joules) / (self.case.tokens * len(self.joules)) if self.joules else None


def make_cases(prompts: Sequence[int], generates: Sequence[int], depths: Sequence[int]) -> Iterator[BenchCase]:
    """Yield every combination in llama-bench's order; cases of 0 tokens are left out."""
    for depth in dict.fromkeys(depths):
        yield from (BenchCase(prompt, 0, depth) for prompt in dict.fromkeys(prompts) if prompt)
        yield from (BenchCase(0, generate, depth) for generate in dict.fromkeys(generates) if generate)


def parse_counts(text: str) -> tuple[int, ...]:
    """Parse numbers in llama-bench's syntax: 512,1024 or 0-8192+2048 or 128-1024*2. Raises ValueError."""
    counts: list[int] = []
    for item in text.split(","):
        parsed = re.fullmatch(r"(\d{1,8})(?:-(\d{1,8})(?:([+*])(\d{1,8}))?)?", item.strip())
        if not parsed:
            raise ValueError(f"{item.strip()!r} is neither a number nor a range such as 0-8192+2048 or 128-1024*2")
        first, last = int(parsed[1]), int(parsed[2] or parsed[1])
        counts += _expand_range(first, last, parsed[3] or "+", int(parsed[4] or 1))
        if max(counts, default=0) > _MAX_TOKENS or len(counts) > _MAX_COUNTS:
            raise ValueError(f"{item.strip()!r} is too large")
    return tuple(dict.fromkeys(counts))


def _expand_range(first: int, last: int, sign: str, step: int) -> Iterator[int]:
    """Yield the numbers from `first` to `last`, adding (+) or multiplying by (*) `step`. Raises ValueError."""
    if first > last or (sign == "*" and (step < 2 or not first)) or not step:
        raise ValueError(f"{first}-{last}{sign}{step} is not a valid range")
    value = first
    for _ in range(_MAX_COUNTS + 1):
        if value > last:
            return
        yield value
        value = value * step if sign == "*" else value + step


class MeasuringEngine(Protocol):
    """The part of an engine that benchmarks need; see `engine.client.Engine`."""

    def measure(self, *, prompt: int = 0, generate: int = 0, depth: int = 0) -> float:
        """Return the seconds that `prompt` and `generate` tokens take after `depth` untimed tokens."""


def run_cases(
    engine: MeasuringEngine,
    cases: Sequence[BenchCase],
    repetitions: int,
    meter: EnergyMeter | None,
    notify: Callable[[str], None],
) -> Iterator[BenchResult]:
    """Run each case `repetitions` times after one untimed warm-up, like llama-bench, and yield its result.

    `notify` gets a line of progress before each run. Raises QwenctlError.
    """
    for case in cases:
        notify(f"{case.name}: warming up")
        engine.measure(prompt=case.prompt, generate=min(case.generate, 1), depth=case.depth)
        seconds, joules = [], []
        for number in range(repetitions):
            notify(f"{case.name}: {number + 1} of {repetitions}")
            start, before = time.perf_counter(), meter.read() if meter else {}
            seconds.append(engine.measure(prompt=case.prompt, generate=case.generate, depth=case.depth))
            if meter:  # mean power times timed seconds, because the meter also ran while `depth` was evaluated
                joules.append(meter.joules_since(before) * seconds[-1] / (time.perf_counter() - start))
        yield BenchResult(case, tuple(seconds), tuple(joules))


_EXPERT_PART = "routed experts"


def expert_layers(memory: MemoryPlan) -> set[int]:
    """Return the layers that have experts in this memory, from the layer ranges in its plan, such as "0-3, 7"."""
    texts = ", ".join(part.layers for part in memory.parts if part.kind == _EXPERT_PART)
    layers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", texts):
        layers |= set(range(int(first), int(last or first) + 1))
    return layers


def sweep_points(plan: Plan, max_points: int) -> list[tuple[int, int]]:
    """Return up to `max_points` pairs (layers with all experts on GPUs, the `--n-cpu-moe` for that), in rising order.

    Empty if the model has no experts or the plan puts none on a GPU.
    """
    in_ram = set().union(*(expert_layers(memory) for memory in plan.memories if memory.name == CPU))
    on_devices = set().union(*(expert_layers(memory) for memory in plan.memories if memory.name != CPU))
    all_layers, on_gpus = in_ram | on_devices, len(on_devices - in_ram)
    if not on_devices:
        return []
    # Evenly spaced from no layer to as many as fit; both ends are always included.
    steps = max_points - 1
    counts = sorted({round(on_gpus * step / steps) for step in range(max_points)}) if steps > 0 else [on_gpus]
    return [(count, max(all_layers) + 1 - count) for count in counts]
