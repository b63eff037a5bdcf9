"""The CPUs of this machine: model, cores, free cores, instruction sets and NUMA nodes.

Everything comes from the system's own files and psutil; a `Cpu` goes out. More threads than free physical cores make
decoding slower, not faster, because each waits for the slowest: that is what the counts are for.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from qwenctl.machine.memory import cgroup_folders

_CPUINFO, _NODES = Path("/proc/cpuinfo"), Path("/sys/devices/system/node")
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_PERFORMANCE = Path("/sys/devices/cpu_core/cpus")
_SAMPLE_S = 0.1


@dataclass(frozen=True)
class Cpu:
    """`physical_cores` of the whole machine; `usable_cores` that this process may use, at most all physical ones.

    `flags` are the system's names of the instruction sets, such as "avx2"; empty if unknown.
    """

    model: str
    physical_cores: int
    usable_cores: int
    numa_nodes: int
    flags: frozenset[str]


def read_cpu(cpuinfo: Path = _CPUINFO, nodes: Path = _NODES) -> Cpu:
    """The CPUs of this machine."""
    import psutil

    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^(?:model name|Model)\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    return Cpu(
        model=model[1].strip() if model else platform.processor() or platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        usable_cores=usable_cores(),
        numa_nodes=max(1, len(list(nodes.glob("node[0-9]*")))),
        flags=frozenset(flags[1].split() if flags else ()),
    )


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS, performance: Path = _PERFORMANCE) -> int:
    """The physical cores that this process may use, according to its affinity and its control groups' limits.

    Of Intel CPUs with two kinds of cores only the performance cores count, which are listed in `performance`: all
    threads would wait for the slow ones.
    """
    import psutil

    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    quotas = [quota for folder, _ in cgroup_folders(cgroups, own, "cpu") if (quota := _quota(folder)) is not None]
    fast_cores = _fast_cores(performance)
    return max(1, int(min(physical or logical, allowed, *quotas, fast_cores or logical)))


def free_cores(usable: int, sample_s: float = _SAMPLE_S) -> int:
    """How many of `usable` physical cores are not busy now; at least 1. Takes `sample_s` seconds."""
    import psutil

    busy = sum(psutil.cpu_percent(sample_s, percpu=True)) / 100
    spare = (psutil.cpu_count(logical=False) or usable) - busy
    return max(1, min(usable, round(spare)))


def _quota(folder: Path) -> float | None:
    """The number of CPUs that a control group allows; None if it has no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None


def _fast_cores(performance: Path) -> int:
    """The number of performance cores, from a list of their threads such as "0-15"; 0 if all cores are alike."""
    try:
        text = performance.read_text()
    except OSError:
        return 0
    threads: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        threads |= set(range(int(first), int(last or first) + 1))
    # Hyperthreads of one core yield the same set, so the number of distinct sets is the number of cores.
    siblings = {frozenset(_siblings(performance.parents[1] / "system/cpu", thread) & threads) for thread in threads}
    return len(siblings)


def _siblings(cpus: Path, thread: int) -> set[int]:
    """The threads of the core that runs `thread` (sysfs, topology/thread_siblings_list)."""
    try:
        text = (cpus / f"cpu{thread}" / "topology/thread_siblings_list").read_text()
    except OSError:
        return {thread}
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return {number for first, last in ranges for number in range(int(first), int(last or first) + 1)} | {thread}
