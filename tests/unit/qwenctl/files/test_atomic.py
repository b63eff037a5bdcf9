"""A file is written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quantize.file_system import open_locked
from qwenctl.files.atomic import read_object, write_object

NO_PROCESS = 5_000_000  # larger than the largest id that Linux gives


def test_failed_write_leaves_old_file_unchanged(tmp_path: Path) -> None:
    write_object(tmp_path / "a", {"x": 1})
    with pytest.raises(TypeError):
        write_object(tmp_path / "a", {"x": object()})
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_object(tmp_path / "b") == {}


def test_only_own_files_whose_process_is_gone_are_deleted(tmp_path: Path) -> None:
    gone = NO_PROCESS
    older = tmp_path / f"a.{gone}.part"  # as older versions named it
    older.touch()
    kept = [
        f"other.gguf.{gone}.part",  # an unfinished split of a conversion is named so
        f"a.pid{os.getppid()}.part",
        "a.part",
        "a.pidx.part",
        f"a.pid{gone}.part.txt",
    ]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f"folder.pid{gone}.part").mkdir()
    (tmp_path / f"link.pid{gone}.part").symlink_to("a.part")
    locked = tmp_path / f"locked.pid{gone}.part"  # of a process in another container
    with open_locked(locked):
        write_object(tmp_path / "a", {})
        assert locked.exists()
    assert not older.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a", *kept, f"folder.pid{gone}.part", f"link.pid{gone}.part", locked.name]
    )


def test_temporary_file_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"a.pid{os.getpid()}.part").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic links"):
        write_object(tmp_path / "a", {})
    assert (tmp_path / "mine").read_text() == "mine"
