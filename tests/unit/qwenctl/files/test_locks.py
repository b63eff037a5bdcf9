"""A lock lets one holder in at a time, names it to the others, and is gone afterwards."""

from __future__ import annotations

import os
import re
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock


def ignore(_: str) -> None:
    """Messages of these tests are not looked at."""


def test_held_lock_names_its_process_and_is_deleted_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with file_lock(path, 0, ignore) as waited:
        assert not waited
        pid, started = path.read_text().split()
        assert int(pid) == os.getpid()
        assert int(started) > 1_000_000_000
    assert not path.exists()


def test_second_holder_is_refused_with_who_holds_it_and_what_to_do(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock", 0, ignore):
        with pytest.raises(QwenctlError) as caught, file_lock(tmp_path / "lock", 0, ignore, "is writing", "choose"):
            pass
        assert re.fullmatch(rf"another qwenctl \(pid {os.getpid()}, \d+ s\) is writing", caught.value.message)
        assert (caught.value.hint, caught.value.code) == ("choose", ExitCode.TRY_AGAIN)


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        ("", "another qwenctl"),
        ("12 words here", "another qwenctl"),
        ("12 x", "another qwenctl"),
        ("12 9999999999", "another qwenctl (pid 12, 0 s)"),
    ],
)
def test_holder_is_described_as_far_as_its_file_tells(content: str, holder: str, tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock", 0, ignore):
        (tmp_path / "lock").write_text(content)
        with pytest.raises(QwenctlError) as caught, file_lock(tmp_path / "lock", 0, ignore, "is here"):
            pass
    assert caught.value.message == f"{holder} is here"


@pytest.mark.parametrize(("ago", "text"), [(130, "2 min"), (3 * 3600, "3 h"), (2 * 86_400, "2 d")])
def test_duration_of_a_lock_is_told_in_its_largest_unit(ago: int, text: str, tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock", 0, ignore):
        _, started = (tmp_path / "lock").read_text().split()
        (tmp_path / "lock").write_text(f"1 {int(started) - ago}")
        with pytest.raises(QwenctlError, match=rf"\(pid 1, {text}\)"), file_lock(tmp_path / "lock", 0, ignore):
            pass


def test_lock_is_released_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), file_lock(tmp_path / "lock", 0, ignore):
        raise ValueError("inside")
    with file_lock(tmp_path / "lock", 0, ignore) as waited:
        assert not waited


def test_waiting_holder_is_told_once_and_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    told: list[str] = []
    with ExitStack() as first:
        first.enter_context(file_lock(tmp_path / "lock", 0, ignore))

        def release_and_note(message: str) -> None:
            told.append(message)
            threading.Timer(0.05, first.close).start()

        with file_lock(tmp_path / "lock", None, release_and_note, "is pulling") as waited:
            assert waited
    [message] = told
    assert re.fullmatch(rf"waiting: another qwenctl \(pid {os.getpid()}, \d+ s\) is pulling", message)


def test_lock_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), file_lock(tmp_path / "lock", 0, ignore):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
