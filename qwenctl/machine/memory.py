"""The RAM of this machine, as far as this process may use it, and its swap space.

Bytes go out. The totals come from psutil; the limits of control groups, which containers have, from the system's own
files, versions 1 and 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Memory:
    """RAM in bytes, limited to what the process's control groups allow."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Swap:
    """Swap space in bytes."""

    total_bytes: int
    used_bytes: int


def read_memory(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> Memory:
    """The RAM that this process may use, within the limits of the control groups listed in the file `own`."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    for limit, used in _cgroup_limits(cgroups, own):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def read_swap() -> Swap:
    """The swap space of the whole system."""
    import psutil

    swap = psutil.swap_memory()
    return Swap(int(swap.total), int(swap.used))


def cgroup_folders(cgroups: Path, own: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of this process's control groups, from the innermost to the visible root, with their version.

    Of version 1 only the groups of the given `controller`.
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
        for ancestor in (folder, *folder.parents):
            if ancestor.is_relative_to(root):
                yield ancestor, version


def _cgroup_limits(cgroups: Path, own: Path) -> Iterator[tuple[int, int]]:
    """The memory limit of each control group of this process, and its usage without reclaimable cache, in bytes."""
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    for folder, version in cgroup_folders(cgroups, own, "memory"):
        limit_name, used_name, cache_name = names[version]
        # The page cache counts as used, but the kernel reclaims it when memory runs low.
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None:
            yield limit, max(0, used - _reclaimable_bytes(folder / "memory.stat", cache_name))


def _number(path: Path) -> int | None:
    """The number in a file; None if it has none, such as "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable_bytes(path: Path, name: str) -> int:
    """Bytes of page cache that can be reclaimed."""
    try:
        match = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0
