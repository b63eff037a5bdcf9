"""Peak memory of batches of 1,000 to 100,000 records, answered immediately by a server on loopback.

The engine is another process and has only a window of records at any time, so this measures `qwenctl batch` itself:
input, ids, queue and output. Run it once (--runs 1): it takes minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Figure, at_most, ratio
from tests.benchmarks.inputs import QWENCTL
from tests.benchmarks.measure import MIB, cost_of
from tests.benchmarks.settings import Settings

_COUNTS = (1_000, 100_000)


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of a short and a long batch."""
    peaks: dict[int, list[float]] = {count: [] for count in _COUNTS}
    command = [sys.executable, "-m", "tests.benchmarks.quick_server"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        for count in _COUNTS:
            with (settings.folder / f"{count}.jsonl").open("w") as file:
                for number in range(count):
                    file.write(json.dumps({"id": f"record-{number}", "prompt": f"What is {number}?"}) + "\n")
        for _ in settings.rounds():
            for count in _COUNTS:
                paths = [settings.folder / f"{count}.jsonl", "-o", settings.folder / f"{count}.out.jsonl"]
                cost = cost_of([QWENCTL, "batch", *paths, "--endpoint", url, "-np", 4, "-q", "--overwrite"])
                peaks[count].append(cost.peak_bytes / MIB)
    finally:
        server.kill()
        server.wait()
    few, many = (peaks[count] for count in _COUNTS)
    yield ratio("100,000 records: peak memory", many, few, "MiB", at_most(1.1), "1,000 records")
