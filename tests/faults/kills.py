"""Kills commands that write files at random moments: `python -m tests.faults.kills --count 300`.

After each kill, the same command must end well, with everything in place and nothing else left.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.support.fault_trials import Subject, run_trials


def kill_once(subjects: list[Subject], number: int, folder: Path) -> str:
    """Kill a subject up to three times, each at a random moment of its run, and let it finish."""
    chance, subject = random.Random(number), subjects[number % len(subjects)]
    start = time.monotonic()
    subject.finish(folder / "measured")
    seconds = time.monotonic() - start
    kills = 0
    for _ in range(chance.randint(1, 3)):
        process = subject.start(folder / "killed")
        # The first half of such a short command is the start of Python.
        time.sleep(seconds * chance.uniform(0.4, 1.0))
        kills += process.poll() is None
        process.kill()
        _, stderr = process.communicate()
        assert stderr == "", f"{subject.name}: {stderr}"
    subject.finish(folder / "killed")
    return f"{subject.name}: {kills} kills"


if __name__ == "__main__":
    run_trials(__doc__, 300, kill_once)
