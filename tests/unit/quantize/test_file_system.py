"""Locks that several writers of one path respect, and what the holder leaves for others to read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from quantize.file_system import AlreadyLocked, file_sha256, open_locked, try_lock


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
