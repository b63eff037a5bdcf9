"""`make bench`: run all benchmarks or the named ones, and print a table of ratios.

Each name is a module here with a function `run`; its docstring says what is measured. All figures except those in ms or
MiB are ratios of two things measured alternately (A B A B), and the median of the pairs is quoted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.figures import table
from tests.benchmarks.measure import busy_seconds, own_seconds
from tests.benchmarks.settings import Settings
from tests.support.peer import add_peer_options, peer_of

BENCHMARKS = (
    "quantize",
    "kernel",
    "memory",
    "chat",
    "startup",
    "turns",
    "pictures",
    "pull",
    "bench_command",
    "placement",
    "drafting",
    "depth",
    "threads",
    "batch",
    "batch_memory",
)


def _first_line(name: str) -> str:
    documented = importlib.import_module(f"tests.benchmarks.{name}").__doc__ or ""
    return documented.splitlines()[0]


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:14}{_first_line(name)}" for name in BENCHMARKS)
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure qwenctl against llama.cpp.",
        epilog=f"benchmarks:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure, of the list below; default: all")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="pairs of runs (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="threads of both sides")
    parser.add_argument("--wait", type=float, default=0, metavar="S", help="wait up to S seconds for an idle machine")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to put up to 10 GB for a while")
    add_peer_options(parser)
    return parser


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, {platform.system()} {platform.release()}"


def _measure(name: str, settings: Settings) -> None:
    start, busy, own = time.monotonic(), busy_seconds(), own_seconds()
    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        inside = replace(settings, folder=Path(folder))
        figures = list(importlib.import_module(f"tests.benchmarks.{name}").run(inside))
    available = (time.monotonic() - start) * (os.cpu_count() or 1)
    others = (busy_seconds() - busy - (own_seconds() - own)) / available
    print(f"\n## {name}\n\n{_first_line(name)}")
    print(f"{time.strftime('%Y-%m-%d %H:%M')}; others used {max(0, others):.0%} of the processors meanwhile.\n")
    print(table(figures), flush=True)


def main() -> None:
    """Parse the command line and run the named benchmarks."""
    parser = _parser()
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    folder = arguments.folder or Path(tempfile.gettempdir())
    settings = Settings(folder, arguments.threads, arguments.runs, arguments.wait, peer_of(arguments))
    print(f"Machine: {_machine()}. Threads: {settings.threads}. Python {platform.python_version()}.")
    print(f'Command: `make bench ARGS="{" ".join(sys.argv[1:])}"`')
    for name in arguments.names or BENCHMARKS:
        _measure(name, settings)


if __name__ == "__main__":
    main()
