"""Kills commands that write files at random moments: `python -m tests.faults.kills --count 300`.

After each kill, no process that the command started is left, and the same command must end well, with everything in
place and nothing else left.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import psutil

from tests.support.fault_trials import Subject, run_trials
from tests.support.waiting import until

_seconds: dict[str, float] = {}  # how long each subject takes without a kill


def kill_once(subject: Subject, number: int) -> str:
    """Kill the subject up to three times, each at a random moment of its run, and let it finish."""
    chance = random.Random(number)
    if subject.name not in _seconds:
        start = time.monotonic()
        subject.finish()
        _seconds[subject.name] = time.monotonic() - start
        subject.place.clear()
    kills = 0
    for _ in range(chance.randint(1, 3)):
        command = subject.start()
        time.sleep(_seconds[subject.name] * chance.uniform(0, 1))
        children = psutil.Process(command.pid).children(recursive=True)
        command.kill()
        code, stderr = command.wait()
        kills += code < 0
        assert stderr == "", stderr
        _wait_for_ends(children)
    subject.finish()
    return f"{subject.name}: {kills} kills"


def _wait_for_ends(processes: Sequence[psutil.Process]) -> None:
    until(lambda: not any(map(_is_running, processes)))


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    run_trials(__doc__, 300, kill_once, None)
