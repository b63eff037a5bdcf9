"""The command line as a new process; `cli_runner` runs it in the process of the test."""

from __future__ import annotations

import os
import subprocess
import sys


def run(
    *arguments: str, stdin: bytes | None = b"hi", timeout_s: float = 60, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "qwenctl", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
        check=False,
    )


# A small process that measures its child: a fork starts with the memory of its parent.
_MEASURE = (
    "import resource, subprocess, sys\n"
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
    "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    "print(used.ru_maxrss * (1 if sys.platform == 'darwin' else 1024), used.ru_utime)\n"
)


def measured(*arguments: str) -> tuple[int, float]:
    """The peak memory in bytes and the user's CPU seconds of a command."""
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "qwenctl", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    peak, seconds = done.stdout.split()
    return int(peak), float(seconds)
