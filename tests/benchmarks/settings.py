"""The settings of a benchmark: folder, threads, runs, and the location of llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import busy_share
from tests.support.peer import Peer

_IDLE_SHARE = 0.05


@dataclass(frozen=True)
class Settings:
    """`runs` is the number of rounds, each with one run of ours and one of llama.cpp's; quick benchmarks do more."""

    folder: Path
    threads: int
    runs: int
    wait: float
    peer: Peer | None

    def rounds(self, times: int = 1) -> Iterator[int]:
        """The numbers of `times * runs` rounds. Waits before each until the machine is idle, at most `wait` seconds."""
        for number in range(times * self.runs):
            end = time.monotonic() + self.wait
            while time.monotonic() < end and busy_share(seconds=0.5) > _IDLE_SHARE:
                pass
            yield number
