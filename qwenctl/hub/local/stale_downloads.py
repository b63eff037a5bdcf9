"""What earlier downloads left behind in a cache: parts of files, and temporary files of other tools.

Nothing is ever removed by itself: a part is what a stopped pull goes on from.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_IDLE_SECONDS = 3600.0  # another tool that wrote to its file within this time may still be at work


@dataclass(frozen=True)
class StaleDownload:
    """A file that could be removed; `n_bytes` is what it takes on the disk."""

    path: Path
    n_bytes: int


def find_leftovers(root: Path) -> list[StaleDownload]:
    """All of them in the cache `root`, but for those of a pull that is at work."""
    return [found for folder in sorted(root.glob("models--*")) if not is_busy(root, folder) for found in _of(folder)]


def stale_buffers(folders: Sequence[Path]) -> list[StaleDownload]:
    """Those of these spools on which no conversion is at work."""
    return [
        StaleDownload(folder, sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")))
        for folder in folders
        if not _is_held(folder.with_name(f"{folder.name}.lock"))
    ]


def _of(folder: Path) -> Iterator[StaleDownload]:
    for path in sorted((folder / "blobs").glob("*")):
        idle = time.time() - path.lstat().st_mtime > _IDLE_SECONDS
        if path.suffix == ".part" or (path.suffix == ".incomplete" and idle):
            yield StaleDownload(path, path.lstat().st_blocks * 512)


def is_busy(root: Path, folder: Path) -> bool:
    """Whether a pull of the repository in `folder` is at work."""
    return _is_held(root / ".locks" / folder.name / "qwenctl.lock")


def _is_held(lock: Path) -> bool:
    """Whether a process has this lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
