"""Checkpoint to GGUF, against convert_hf_to_gguf.py and llama-quantize.

Whole processes are measured. The checkpoint has random weights, 1.1 GB of BF16. llama.cpp needs two steps, BF16 and
then the type; its cost is the sum. One conversion to BF16 per round counts for all types. The first round checks that
the tensors are the same. Without llama.cpp only our own figures are shown.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, at_most, ratio
from tests.benchmarks.inputs import QWENCTL, make_input
from tests.benchmarks.measure import MIB, Cost, cost_of
from tests.benchmarks.settings import Settings
from tests.support.peer import Peer

TYPES = ("Q4_K_M", "Q8_0")
_TWO_STEPS = "convert_hf_to_gguf.py + llama-quantize"
_ONE_STEP = "convert_hf_to_gguf.py --outtype q8_0"
# Half of the time: what one pass saves over two, as the kernels are the same (ggml's).
_WALL, _WALL_ONE_STEP, _MEMORY, _WRITTEN = at_most(0.5), at_most(0.3), at_most(0.5), at_most(1.02)
_Costs = dict[str, list[list[Cost]]]


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of our run and llama.cpp's in turn."""
    source = make_input("random-1gb", settings.folder)
    costs: _Costs = defaultdict(list)
    sizes: dict[str, int] = {}
    for number in settings.rounds():
        for name in TYPES:
            ours = settings.folder / f"ours-{name}.gguf"
            command = [QWENCTL, "quantize", source, "--type", name, "-t", settings.threads, "--quiet", "-o", ours]
            costs[name].append([cost_of(command)])
            sizes[name] = ours.stat().st_size
        if settings.peer:
            _peer_round(settings, settings.peer, source, costs, compare=number == 0)
        for path in settings.folder.glob("*.gguf"):
            path.unlink()
    for name in TYPES:
        yield from _against_peer(name, costs) if settings.peer else _alone(name, costs)
        written = [cost.written_bytes for (cost,) in costs[name]]
        yield ratio(f"{name}: bytes written", written, [sizes[name]] * len(written), "bytes", _WRITTEN, "its output")


def _peer_round(settings: Settings, peer: Peer, source: Path, costs: _Costs, *, compare: bool) -> None:
    threads, wide = str(settings.threads), settings.folder / "wide.gguf"
    first = cost_of(peer.convert(source, wide, "BF16"), OMP_NUM_THREADS=threads)
    for name in TYPES:
        theirs = settings.folder / f"theirs-{name}.gguf"
        second = cost_of(peer.quantize(wide, theirs, name, settings.threads))
        costs[f"{name} peer"].append([first, second])
        if compare:
            ours = settings.folder / f"ours-{name}.gguf"
            cost_of([sys.executable, "-m", "tests.benchmarks.same_tensors", ours, theirs])
    wide.unlink()
    direct = cost_of(peer.convert(source, settings.folder / "direct.gguf", "Q8_0"), OMP_NUM_THREADS=threads)
    costs[_ONE_STEP].append([direct])


def _against_peer(name: str, costs: _Costs) -> Iterator[Figure]:
    ours, theirs = costs[name], costs[f"{name} peer"]
    yield ratio(f"{name}: wall time", *_sums(ours, theirs, "wall"), "s", _WALL, _TWO_STEPS)
    yield ratio(f"{name}: CPU time", *_sums(ours, theirs, "cpu"), "s", None, _TWO_STEPS)
    memory = [[max(cost.peak_bytes for cost in run) / MIB for run in runs] for runs in (ours, theirs)]
    yield ratio(f"{name}: peak memory", memory[0], memory[1], "MiB", _MEMORY, _TWO_STEPS)
    yield ratio(f"{name}: bytes written", *_sums(ours, theirs, "written_bytes"), "bytes", None, _TWO_STEPS)
    if name == "Q8_0":
        yield ratio(f"{name}: wall time", *_sums(ours, costs[_ONE_STEP], "wall"), "s", _WALL_ONE_STEP, _ONE_STEP)


def _sums(ours: list[list[Cost]], theirs: list[list[Cost]], what: str) -> tuple[list[float], list[float]]:
    """The sum of a field of `Cost` over the steps of each run."""
    first, second = ([sum(getattr(cost, what) for cost in run) for run in runs] for runs in (ours, theirs))
    return first, second


def _alone(name: str, costs: _Costs) -> Iterator[Figure]:
    runs = [cost for (cost,) in costs[name]]
    yield Figure(f"{name}: wall seconds", [cost.wall for cost in runs], None, "")
    yield Figure(f"{name}: CPU seconds", [cost.cpu for cost in runs], None, "")
    yield Figure(f"{name}: peak MiB", [cost.peak_bytes / MIB for cost in runs], None, "")
