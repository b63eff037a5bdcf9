"""The cost of a process, measured from outside: time, memory, bytes written, and the times of its output.

A command comes in and is run; a `Cost` goes out. The figures come from the kernel (wait4, /proc/PID/io) and cover the
process and all children that it waited for, without help from the measured program. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Wall and CPU (user and system) seconds, the memory of the largest process, the bytes handed to write().

    `first` and `last` are the seconds from the start to the first and to the last byte of `output`.
    """

    wall: float
    cpu: float
    peak_bytes: int
    written_bytes: int
    output: bytes
    first: float
    last: float


def cost_of(command: Sequence[object], until: bytes = b"", **environment: str) -> Cost:
    """Run a command to its end. With `until`, `first` is the time when this text had been printed.

    Raises RuntimeError with its output if it fails. The memory is at least that of the caller, because the new process
    starts as its copy: the caller must stay small.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        with process.stdout:
            output, first, last = _read(process.stdout, until)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but is still in /proc
        wall, written = time.perf_counter() - start, _written_bytes(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{errors.read().decode()}")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    return Cost(wall, cpu, peak, written, output, first - start, last - start)


def _read(stream: IO[bytes], until: bytes) -> tuple[bytes, float, float]:
    """All output, the time of the first byte (or of `until`), and the time of the last byte."""
    output, first, last = b"", 0.0, 0.0
    while piece := os.read(stream.fileno(), 65536):
        output, last = output + piece, time.perf_counter()
        if not first and until in output:
            first = last
    return output, first, last


def _written_bytes(process: int) -> int:
    counters = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(counters["wchar"])


def busy_seconds() -> float:
    """CPU seconds that this machine has spent since it was started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = ticks
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def busy_share(seconds: float) -> float:
    """The share of all processors' time that is used during the next `seconds`."""
    start = busy_seconds()
    time.sleep(seconds)
    return (busy_seconds() - start) / (seconds * (os.cpu_count() or 1))
