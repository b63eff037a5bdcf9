"""The share of ggml's kernels in the time of a conversion; the rest is qwenctl's overhead.

Kernel seconds (summed over the threads) divided by wall seconds times threads, as reported by `qwenctl quantize --json`
for a checkpoint of 1.1 GB with nearly all weights in one type. "Process" includes the start of Python and planning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, at_least
from tests.benchmarks.inputs import QWENCTL, make_input
from tests.benchmarks.measure import Cost, cost_of
from tests.benchmarks.settings import Settings

# The goal is for Q4_K. Q8_0 is as fast as the memory, so reading and writing show.
_GOALS = {"q4_k": at_least(0.9), "q6_k": None, "q8_0": None}


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds over the types."""
    source = make_input("random-1gb", settings.folder)
    runs = [(kind, *_converted(settings, source, kind)) for _ in settings.rounds() for kind in _GOALS]
    for kind, goal in _GOALS.items():
        seconds = [(report["kernel_seconds"] / settings.threads, report["seconds"], cost.wall)
                   for name, report, cost in runs if name == kind]  # fmt: skip
        against = f"{settings.threads} threads x time of the"
        yield Figure(f"{kind}: kernel", [k / c for k, c, _ in seconds], goal, f"{against} conversion")
        yield Figure(f"{kind}: kernel", [k / p for k, _, p in seconds], None, f"{against} process")


def _converted(settings: Settings, source: Path, kind: str) -> tuple[dict[str, Any], Cost]:
    output = settings.folder / f"{kind}.gguf"
    types = ["--type", "Q8_0", "--tensor-type", f".={kind}", "-t", settings.threads]
    cost = cost_of([QWENCTL, "quantize", source, *types, "--quiet", "--json", "-o", output])
    output.unlink()
    report: dict[str, Any] = json.loads(cost.output)
    return report, cost
