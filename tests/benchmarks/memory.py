"""Peak memory of conversions of 1 GB to 8 GB with 1, 2 and 4 workers.

The checkpoints are sparse files of zeros in the shapes of the 35B; the output, Q8_0, is real.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Figure, at_most, ratio
from tests.benchmarks.inputs import QWENCTL, make_input
from tests.benchmarks.measure import MIB, cost_of
from tests.benchmarks.settings import Settings

_DISK_BYTES = 6_000_000_000
_WORKERS = (1, 2, 4)


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds over sizes and workers."""
    if shutil.disk_usage(settings.folder).free < _DISK_BYTES:
        sys.exit(f"{settings.folder} has no {_DISK_BYTES:,} free bytes")
    sources = {name: make_input(f"sparse-{name}", settings.folder) for name in ("1gb", "8gb")}
    output, peaks = settings.folder / "out.gguf", dict[tuple[str, int], list[float]]()
    for _ in settings.rounds():
        for workers in _WORKERS:
            for name, source in sources.items():
                options = ["--type", "Q8_0", "-t", workers, "--quiet", "-o", output]
                cost = cost_of([QWENCTL, "quantize", source, *options])
                peaks.setdefault((name, workers), []).append(cost.peak_bytes / MIB)
                output.unlink()
    for workers in _WORKERS:
        small, large = peaks["1gb", workers], peaks["8gb", workers]
        yield ratio(f"8 GB, {workers} workers: peak memory", large, small, "MiB", at_most(1.1), "1 GB, the same")
        limit = [1024.0 + 256 * workers] * len(large)
        what = f"8 GB, {workers} workers: peak memory"
        yield ratio(what, large, limit, "MiB", at_most(1), "1 GiB + 256 MiB a worker")
