"""A file is written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quantize.file_system import open_locked
from qwenctl.files.atomic import read_object, write_object, write_private

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
    others = [
        f"other.gguf.{gone}.part",  # an unfinished split of a conversion is named so
        f"a.pid{os.getppid()}.part",
        "a.part",
        "a.pidx.part",
        f"a.pid{gone}.part.txt",
    ]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f"folder.pid{gone}.part").mkdir()
    (tmp_path / f"link.pid{gone}.part").symlink_to("a.part")
    locked = tmp_path / f"locked.pid{gone}.part"  # of a process in another container
    with open_locked(locked):
        write_object(tmp_path / "a", {})
        assert locked.exists()
    assert not older.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["a", *others, f"folder.pid{gone}.part", f"link.pid{gone}.part", locked.name]
    )


def test_temporary_file_of_somebody_else_is_neither_written_nor_followed(tmp_path: Path) -> None:
    victim, theirs = tmp_path / "victim", tmp_path / f"b.pid{os.getpid()}.part"
    victim.write_text("precious")
    (tmp_path / f"a.pid{os.getpid()}.part").symlink_to(victim)
    theirs.write_text("theirs")
    for name in ("a", "b"):
        write_private(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    assert (victim.read_text(), theirs.read_text()) == ("precious", "theirs")


def test_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    write_private(tmp_path / "link", b"new")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "link").read_bytes()) == ("precious", b"new")
