"""What stopped downloads left is found; what is complete, fresh or in use is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from qwenctl.files.locks import file_lock
from qwenctl.hub.local.stale_downloads import find_stale_downloads, is_busy, stale_buffers


def blob(root: Path, name: str, *, age_s: float = 0) -> Path:
    """A file of 8192 bytes among the blobs of one repository, last modified `age_s` seconds ago."""
    path = root / "models--owner--name" / "blobs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(8192))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_partial_files_are_stale_and_complete_or_fresh_ones_are_not(tmp_path: Path) -> None:
    part = blob(tmp_path, "a.part")
    old = blob(tmp_path, "c.incomplete", age_s=7200)
    blob(tmp_path, "b")
    blob(tmp_path, "d.incomplete", age_s=60)
    found = find_stale_downloads(tmp_path)
    assert [stale.path for stale in found] == [part, old]
    assert all(stale.n_bytes >= 8192 for stale in found)


def test_downloads_of_a_pull_that_is_running_are_not_stale(tmp_path: Path) -> None:
    part = blob(tmp_path, "a.part")
    folder = part.parent.parent
    assert not is_busy(tmp_path, folder)
    with file_lock(tmp_path / ".locks" / folder.name / "qwenctl.lock", 0, lambda _: None):
        assert is_busy(tmp_path, folder)
        assert find_stale_downloads(tmp_path) == []
    assert len(find_stale_downloads(tmp_path)) == 1


def test_buffer_is_stale_unless_its_lock_is_held_and_counts_allocated_bytes(tmp_path: Path) -> None:
    buffer = tmp_path / "buffer"
    buffer.mkdir()
    with (buffer / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    [found] = stale_buffers([buffer])
    assert (found.path, found.n_bytes < 1 << 20) == (buffer, True)
    with file_lock(tmp_path / "buffer.lock", 0, lambda _: None):
        assert stale_buffers([buffer]) == []
