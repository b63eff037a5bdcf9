"""Decode and prefill speed of all threads and of one, on an idle machine and next to one busy process per processor.

Measured in the engine, as in a chat: with its default policy (no `-t`), and with wait policies set by hand (`-t N` and
OpenMP's variables), including the default of GNU's OpenMP. Two models: the toy, whose threads meet at a barrier every
few microseconds, and four layers of the 35B (zeros: the arithmetic is the same).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Figure, at_least, ratio
from tests.benchmarks.inputs import QWENCTL, make_input, make_toy_gguf
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

_SECONDS = "3"
_PROMPT = 16


@dataclass(frozen=True)
class Policy:
    """Threads and OpenMP variables; with `threads` 0 the engine chooses."""

    name: str
    threads: int
    variables: Mapping[str, str]


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of all policies, idle and busy."""
    every = settings.threads
    policies = [
        Policy("ours", 0, {}),
        Policy("one thread", 1, {}),
        Policy("all, OpenMP's default", every, {"GOMP_SPINCOUNT": "300000"}),
        Policy("all, sleeping at once", every, {"OMP_WAIT_POLICY": "passive"}),
        Policy("all, 1,000 rounds", every, {"GOMP_SPINCOUNT": "1000"}),
        Policy("all, 10,000 rounds", every, {"GOMP_SPINCOUNT": "10000"}),
    ]
    models = {"toy": make_toy_gguf(settings.folder), "four layers of the 35B": _four_layers(settings.folder)}
    for name, model in models.items():
        for busy in (0, os.cpu_count() or 1):
            found = _rates(settings, model, policies, busy)
            yield from _figures(f"{name}, {'beside busy processes' if busy else 'idle'}", found, busy=busy > 0)


def _four_layers(folder: Path) -> Path:
    model = folder / "model.gguf"
    source = make_input("sparse-4-layers", folder)
    cost_of([QWENCTL, "quantize", source, "--type", "Q4_K_M", "--quiet", "-o", model])
    return model


def _rates(
    settings: Settings, model: Path, policies: list[Policy], busy: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Decode and prefill tokens per second by policy, one value per round."""
    found: dict[str, tuple[list[float], list[float]]] = {policy.name: ([], []) for policy in policies}
    for _ in settings.rounds():
        with _busy_processes(busy):
            for policy in policies:
                command = [sys.executable, "-m", "tests.benchmarks.engine_speed", model, policy.threads, _PROMPT]
                words = cost_of([*command, _SECONDS], **policy.variables).output.split()
                for rates, word in zip(found[policy.name], words, strict=True):
                    rates.append(float(word))
    return found


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """Busy-waiting processes, which end with the context or after ten minutes."""
    loop = "import time; end = time.monotonic() + 600\nwhile time.monotonic() < end: pass"
    running = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _figures(where: str, found: dict[str, tuple[list[float], list[float]]], *, busy: bool) -> Iterator[Figure]:
    for kind, what in enumerate(("tokens decoded", f"a prompt of {_PROMPT} tokens")):
        rates = {name: both[kind] for name, both in found.items()}
        fixed = ["one thread"] if busy else [name for name in rates if name != "ours"]
        best = max(fixed, key=lambda name: statistics.median(rates[name]))
        goal = at_least(0.5 if busy else 0.97) if not kind else None
        yield ratio(f"{where}: {what}", rates["ours"], rates[best], "tokens/s", goal, best)
    rates = {name: both[0] for name, both in found.items() if name not in ("ours", "one thread")}
    for name, theirs in rates.items():
        yield ratio(f"{where}: decoded with {name}", theirs, found["one thread"][0], "tokens/s", None, "one thread")
