"""The RAM of this machine, as far as this process may use it, and its swap.

Bytes go out. What there is comes from psutil; the limits of control groups, which containers have, from the system's
own files, version 1 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes of RAM; both are at most what the process's control group allows."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Swap:
    """Bytes of swap space."""

    total_bytes: int
    used_bytes: int


def read_memory(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> Memory:
    """The RAM that this process may use: what there is, within the limits of its control groups, listed in `own`."""
    import psutil

    found = psutil.virtual_memory()
    total, available = int(found.total), int(found.available)
    for limit, used in _cgroup_limits(cgroups, own):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def read_swap() -> Swap:
    """The swap space of the system, whoever uses it."""
    import psutil

    found = psutil.swap_memory()
    return Swap(int(found.total), int(found.used))


def cgroup_folders(cgroups: Path, own: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of this process's control groups up to the root that is visible, with their version.

    Of version 1 those of one `controller`. The innermost comes first.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, version = cgroups, 2
        elif controller in controllers.split(","):
            root, version = cgroups / controller, 1
        else:
            continue
        folder = root / path.lstrip("/")
        for found in (folder, *folder.parents):
            if found.is_relative_to(root):
                yield found, version


def _cgroup_limits(cgroups: Path, own: Path) -> Iterator[tuple[int, int]]:
    """The memory limit of each control group that this process is in, and what is used of it but for caches."""
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    for folder, version in cgroup_folders(cgroups, own, "memory"):
        limit_name, used_name, cache_name = names[version]
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None:
            yield limit, max(0, used - _cached(folder / "memory.stat", cache_name))


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none, as for "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached(path: Path, name: str) -> int:
    """Bytes of the page cache that can be taken away."""
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
