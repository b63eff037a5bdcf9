"""Plans against loads under caps on the device's memory: `python -m tests.gpu.measure MODEL --cap 12G [--cap 16G ...]`.

For each cap, which `--fit-target` sets on both sides, a Markdown table shows: the bytes planned for the device and the
bytes taken; the forecast speed and the measured one; that speed against llama-bench with its own `--fit-target`, if
llama-bench is given, and against the best of a sweep over `--n-cpu-moe`. `--rpc HOST:PORT` measures on the device of an
RPC server instead of a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.formatting import parse_bytes
from qwenctl.placement.plan import Plan, plan_deviations
from qwenctl.placement.plan_file import from_json
from qwenctl.protocol.placement import CPU, MemoryUse

_NO_ROOM = 71
_TEST = "tg"


@dataclass(frozen=True)
class Bench:
    """The parameters of each run; `step` is the step of the sweep over layers."""

    model: Path
    tokens: int
    repetitions: int
    step: int
    load: tuple[str, ...]
    llama_bench: Path | None

    def plan(self, *options: str) -> Plan:
        """The plan that `qwenctl plan` prints, without the MTP block: `qwenctl bench` makes no drafts."""
        return from_json(_qwenctl("plan", str(self.model), *self.load, *options, "--no-mtp", "--json"), "plan")

    def bench(self, *options: str) -> dict[str, Any]:
        """The JSON that `qwenctl bench` prints."""
        counts = ("-p", "0", "-n", str(self.tokens), "-r", str(self.repetitions))
        report: dict[str, Any] = json.loads(_qwenctl("bench", str(self.model), *self.load, *options, *counts, "--json"))
        return report


class NoRoomError(Exception):
    """A placement set by hand does not fit under the cap."""


def _qwenctl(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "qwenctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode == _NO_ROOM:
        raise NoRoomError(done.stderr)
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout


def measure(bench: Bench, cap: int) -> Iterator[tuple[str, str, str, str]]:
    """The rows of the table for one cap: name, our value, the other value, ratio."""
    free = next(memory.free_bytes for memory in bench.plan().memories if memory.name != CPU)
    if cap >= free:
        return
    target = ("--fit-target", str(free - cap >> 20))
    plan, report = bench.plan(*target), bench.bench(*target)
    used = [MemoryUse(**use) for use in report["memory"]]
    for memory in plan.memories:
        actual = next((use.n_bytes for use in used if use.name == memory.name), 0)
        planned = memory.n_bytes - memory.of("vision", "snapshots")
        yield (
            f"{memory.name}: MiB taken and planned",
            f"{actual >> 20:,}",
            f"{planned >> 20:,}",
            _ratio(actual, planned),
        )
    for line in plan_deviations(plan, used):
        yield f"**over 3 %**: {line}", "", "", ""
    ours = report["results"][0]["avg_ts"]
    cast = plan.forecast.decode
    yield "tokens/s measured and forecast", f"{ours:.2f}", f"{cast:.2f}", _ratio(ours, cast)
    if bench.llama_bench is not None:
        theirs = _llama_bench(bench, free - cap >> 20)
        yield "tokens/s, and of llama-bench --fit-target", f"{ours:.2f}", f"{theirs:.2f}", _ratio(ours, theirs)
    swept = dict(_sweep(bench, target, plan))
    if swept:
        best = max(swept, key=lambda layers: swept[layers])
        what = f"tokens/s, and of the best of {len(swept)} --n-cpu-moe ({best})"
        yield what, f"{ours:.2f}", f"{swept[best]:.2f}", _ratio(ours, swept[best])


def _sweep(bench: Bench, target: Sequence[str], plan: Plan) -> Iterator[tuple[int, float]]:
    """Tokens/s by the number of layers with experts in RAM, for all numbers that fit."""
    layers = 1 + max(
        (int(number) for memory in plan.memories for part in memory.parts if part.kind == "routed experts"
         for number in part.layers.replace("-", ",").replace(" ", "").split(",") if number),
        default=-1,
    )  # fmt: skip
    for count in range(0, layers + 1, bench.step):
        try:
            report = bench.bench(*target, "--n-cpu-moe", str(count))
        except NoRoomError:
            continue
        yield count, report["results"][0]["avg_ts"]


def _llama_bench(bench: Bench, margin: int) -> float:
    """The tokens/s of llama-bench with the same margin in MiB."""
    context = bench.load[bench.load.index("-c") + 1]
    options = ["-p", "0", "-n", str(bench.tokens), "-r", str(bench.repetitions), "-fitt", str(margin), "-fitc", context]
    rpc = [option.replace("--rpc", "-rpc") for option in bench.load if bench.load[0] == "--rpc"][:2]
    command = [str(bench.llama_bench), "-m", str(bench.model), *options, *rpc, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.3f}" if other else "-"


def main(arguments: Sequence[str]) -> None:
    """Measure under each cap and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.measure")
    parser.add_argument("model", type=Path)
    parser.add_argument("--cap", action="append", required=True, metavar="SIZE")
    parser.add_argument("--rpc", metavar="HOST:PORT")
    parser.add_argument("--llama-bench", type=Path, metavar="FILE", help="llama.cpp's own, built for the same device")
    parser.add_argument("--context", default="4096")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--step", type=int, default=1, help="of the sweep over layers")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args(arguments)
    rpc = ("--rpc", given.rpc) if given.rpc else ()
    load = (*rpc, "-c", given.context, "-t", str(given.threads))
    bench = Bench(given.model, given.tokens, given.repetitions, given.step, load, given.llama_bench)
    print("| cap | what | ours | other | ratio |\n|---|---|---|---|---|")
    for cap in given.cap:
        for row in measure(bench, parse_bytes(cap)):
            print(f"| {cap} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
