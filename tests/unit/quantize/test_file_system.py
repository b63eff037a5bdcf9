"""Locks that several writers of one path respect, and what the holder leaves for others to read."""

from __future__ import annotations

import hashlib
import os
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.file_system import (
    AlreadyLocked,
    file_sha256,
    open_locked,
    replace_files,
    try_lock,
    write_all,
)


def test_second_writer_is_refused_with_what_the_first_wrote(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open_locked(path) as held:
        held.write(b"pid 1\n")
        with pytest.raises(AlreadyLocked) as refused:
            open_locked(path)
        assert refused.value.content == b"pid 1\n"
    open_locked(path).close()


def test_content_survives_being_locked_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"one\n")
    with open_locked(path, os.O_APPEND) as file:
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_lock_holds_after_the_file_was_deleted_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with open_locked(path):
        path.unlink()
        with open_locked(path), pytest.raises(AlreadyLocked):
            open_locked(path)


def test_file_is_created_with_the_given_mode(tmp_path: Path) -> None:
    with open_locked(tmp_path / "lock", mode=0o600) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic link"):
        open_locked(tmp_path / "lock")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_locked_gives_the_answer_that_was_asked_for() -> None:
    descriptor = os.open("/", os.O_PATH)  # flock refuses it with EBADF, as a file system without locks does otherwise
    try:
        assert try_lock(descriptor)
        assert not try_lock(descriptor, without_locks=False)
    finally:
        os.close(descriptor)


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@given(data=st.binary(max_size=2000), shares=st.lists(st.floats(0.01, 1), min_size=1), at=st.none() | st.integers(0, 9))
def test_short_writes_are_continued(data: bytes, shares: list[float], at: int | None) -> None:
    """However little of a write the system takes, all bytes arrive, in their order and at their offset."""
    takes = cycle(shares)
    write, pwrite = os.write, os.pwrite

    def part(rest: memoryview) -> memoryview:
        return rest[: max(1, int(len(rest) * next(takes)))]

    with TemporaryFile("w+b", buffering=0) as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, rest: write(descriptor, part(rest)))
        patch.setattr(os, "pwrite", lambda descriptor, rest, offset: pwrite(descriptor, part(rest), offset))
        write_all(file.fileno(), data, at)
        assert os.pread(file.fileno(), 3000, at or 0) == data
        assert os.fstat(file.fileno()).st_size == (len(data) + (at or 0) if data else 0)


def test_disk_that_takes_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda _descriptor, _rest: 0)
    with pytest.raises(OSError, match="Input/output error"):
        write_all(1, b"x")


def test_replaced_files_have_their_new_names_and_folders_are_synced_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (steps.append(f"rename {new.name}"), replace(old, new)))
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (
            steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}"),
            fsync(descriptor),
        ),
    )
    for name in "ab":
        (tmp_path / f"{name}.part").write_text(name)
        (tmp_path / name).write_text("old")
    replace_files([(tmp_path / f"{name}.part", tmp_path / name) for name in "ab"])
    assert steps == ["rename a", "rename b", f"sync {tmp_path.name}"]
    assert [(path.name, path.read_text()) for path in sorted(tmp_path.iterdir())] == [("a", "a"), ("b", "b")]
