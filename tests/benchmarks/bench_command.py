"""`qwenctl bench` against llama-bench with the same file and threads: prefill and decode tokens/s.

Both measure the same thing in their own process, so the ratio should be 1: overhead of `qwenctl bench` around
llama_decode (ctypes, the engine's bookkeeping) would show here, and so would a different method of measuring.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, at_least, ratio
from tests.benchmarks.inputs import QWENCTL, make_input, make_toy_gguf
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

_TESTS, _COUNTS = ("pp128", "tg32", "pp128 @ d512", "tg32 @ d512"), "-p 128 -n 32 -d 0,512 -r 2"


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of both in turn, with a mixture-of-experts model of a gigabyte and the toy; none without llama.cpp."""
    if settings.peer is None:
        return
    program = settings.peer.programs / "llama-bench"
    large = settings.folder / "random-Q8_0.gguf"
    options = ["--type", "Q8_0", "--quiet", "-o", large]
    cost_of([QWENCTL, "quantize", make_input("random-1gb", settings.folder), *options])
    for name, model in (("0.6 GB", large), ("toy", make_toy_gguf(settings.folder))):
        yield from _compared(settings, program, name, model)


def _compared(settings: Settings, program: Path, name: str, model: Path) -> Iterator[Figure]:
    counts = [*_COUNTS.split(), "-t", str(settings.threads)]
    ours: dict[str, list[float]] = {test: [] for test in _TESTS}
    theirs: dict[str, list[float]] = {test: [] for test in _TESTS}
    for _ in settings.rounds():
        report = json.loads(cost_of([QWENCTL, "bench", model, *counts, "--json"]).output)
        for one in report["results"]:
            ours[one["test"]].append(one["avg_ts"])
        for one in json.loads(cost_of([program, "-m", model, *counts, "-o", "json"]).output):
            what = f"pp{one['n_prompt']}" if one["n_prompt"] else f"tg{one['n_gen']}"
            depth = f" @ d{one['n_depth']}" if one["n_depth"] else ""
            theirs[what + depth].append(one["avg_ts"])
    for test in _TESTS:
        yield ratio(f"{name}: {test}", ours[test], theirs[test], "tokens/s", at_least(0.95), "llama-bench")
