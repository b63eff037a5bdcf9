"""Find what earlier downloads left behind: partial files, temporary files of other tools, and shard buffers.

Cache folders come in, removable paths with their sizes go out. Nothing is removed here, because a stopped pull resumes
from its partial files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.file_system import try_lock

_IDLE_SECONDS = 3600.0  # another tool's file that was modified more recently may still be in use


@dataclass(frozen=True)
class StaleDownload:
    """A file or folder that can be removed; `n_bytes` is the disk space it occupies."""

    path: Path
    n_bytes: int


def find_stale_downloads(root: Path) -> list[StaleDownload]:
    """All stale downloads in the cache `root`, except those of a pull that is running."""
    return [
        stale
        for folder in sorted(root.glob("models--*"))
        if not is_busy(root, folder)
        for stale in _find_in_repository(folder)
    ]


def stale_buffers(folders: Sequence[Path]) -> list[StaleDownload]:
    """The shard buffers among `folders` that no running conversion uses."""
    return [
        # Sparse files: count allocated blocks, which are in units of 512 bytes.
        StaleDownload(folder, sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")))
        for folder in folders
        if not _is_locked(folder.with_name(f"{folder.name}.lock"))
    ]


def _find_in_repository(folder: Path) -> Iterator[StaleDownload]:
    """Find this program's partial files, and those of huggingface_hub (`.incomplete`) that are idle."""
    for path in sorted((folder / "blobs").glob("*")):
        idle = time.time() - path.lstat().st_mtime > _IDLE_SECONDS
        if path.suffix == ".part" or (path.suffix == ".incomplete" and idle):
            yield StaleDownload(path, path.lstat().st_blocks * 512)


def is_busy(root: Path, folder: Path) -> bool:
    """Whether a pull of the repository in `folder` is running."""
    return _is_locked(root / ".locks" / folder.name / "qwenctl.lock")


def _is_locked(lock: Path) -> bool:
    """Whether a process holds this lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    # Try to lock it ourselves; closing the descriptor releases the lock again. In doubt it counts as held.
    try:
        return not try_lock(descriptor, without_locks=False)
    finally:
        os.close(descriptor)
