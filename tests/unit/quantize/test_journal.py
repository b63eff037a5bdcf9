"""The journal of an unfinished output: what it has recorded is read back, and half a line is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.errors import CannotWrite, OutputLocked
from quantize.output.journal import JournalState, open_journal, peek_journal

FINGERPRINT = "5eed" * 16
TENSORS = st.frozensets(st.tuples(st.integers(0, 9), st.integers(0, 9999)), max_size=20)


@settings(max_examples=30)
@given(first=TENSORS, second=TENSORS, torn=st.integers(0, 200), complete=st.booleans())
def test_journal_read_after_a_kill_has_every_whole_line(
    first: frozenset[tuple[int, int]],
    second: frozenset[tuple[int, int]],
    torn: int,
    complete: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The second batch of lines is cut at any byte, as a kill may leave it."""
    path = tmp_path_factory.mktemp("journal") / "out.journal"
    with open_journal(path, Path("out")) as journal:
        journal.start(FINGERPRINT)
        journal.record(first)
        whole = path.stat().st_size
        journal.record(second)
        if complete:
            journal.record_complete()
    os.truncate(path, min(whole + torn, path.stat().st_size))
    left = path.read_bytes()[whole:]
    left_lines = left[: left.rfind(b"\n") + 1].decode().splitlines()
    with open_journal(path, Path("out")) as journal:
        state = journal.read()
    expected = {
        (int(file), int(tensor)) for file, tensor, _ in (line.split() for line in left_lines if line != "whole")
    }
    assert state == JournalState(FINGERPRINT, first | expected, "whole" in left_lines)
    assert path.read_bytes().endswith(b"\n")


def test_line_after_a_torn_one_is_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    path.write_bytes(f"{FINGERPRINT}\n0 1\n0 2".encode())
    with open_journal(path, Path("out")) as journal:
        assert journal.read().finished == {(0, 1)}
        journal.record([(3, 4)])
        assert journal.read().finished == {(0, 1), (3, 4)}


@given(tensors=TENSORS, at=st.integers(0), value=st.integers(0, 255))
def test_changed_byte_adds_no_tensor_and_no_other_hash(
    tensors: frozenset[tuple[int, int]], at: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "out.journal"
    with open_journal(path, Path("out")) as journal:
        journal.start(FINGERPRINT)
        journal.record(tensors)
        journal.record_complete(["aa" * 32])
    data = bytearray(path.read_bytes())
    data[len(FINGERPRINT) + 1 + at % (len(data) - len(FINGERPRINT) - 1)] = value
    path.write_bytes(data)
    state = peek_journal(path)
    assert state.finished <= tensors
    assert state.hashes in ({}, {0: "aa" * 32})


def test_line_of_an_older_version_counts_without_a_checksum(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text(f"{FINGERPRINT}\n0 1\npid 5\n0 2 #00000000\nsha256 0 aa\nwhole\n")
    assert peek_journal(tmp_path / "out.journal") == JournalState(FINGERPRINT, frozenset({(0, 1)}), True, {0: "aa"})


def test_start_forgets_an_earlier_plan(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out.journal", Path("out")) as journal:
        journal.start("old")
        journal.record([(0, 0)])
        journal.start("new")
        assert journal.read() == JournalState("new")


def test_empty_journal_has_no_fingerprint(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out.journal", Path("out")) as journal:
        assert journal.read() == JournalState()


def test_second_writer_is_refused_and_told_the_process(tmp_path: Path) -> None:
    with open_journal(tmp_path / "out.journal", Path("out.gguf")) as journal:
        journal.append([FINGERPRINT, "pid 11", "pid 22"])
        with (
            pytest.raises(OutputLocked, match=r"another process \(pid 22\) is writing out.gguf"),
            open_journal(tmp_path / "out.journal", Path("out.gguf")),
        ):
            pass
    with open_journal(tmp_path / "out.journal", Path("out.gguf")):
        pass


def test_journal_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out.journal").symlink_to(tmp_path / "mine")
    with pytest.raises(CannotWrite, match="is a symbolic link"), open_journal(tmp_path / "out.journal", Path("out")):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_hashes_of_a_complete_output_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.journal"
    assert peek_journal(path) == JournalState()
    with open_journal(path, Path("out")) as journal:
        journal.start(FINGERPRINT)
        journal.record([(1, 2)])
        journal.record_complete(["aa", "bb"])
        expected = JournalState(FINGERPRINT, frozenset({(1, 2)}), complete=True, hashes={0: "aa", 1: "bb"})
        assert journal.read() == peek_journal(path) == expected


@pytest.mark.parametrize("content", [b"mine", b"mine\n0 1\n", b"one line\nmore", b"\x89PNG\n", b"\0\0\xff"])
def test_file_that_is_no_journal_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_bytes(content)
    with (
        pytest.raises(CannotWrite, match="exists, and is no journal"),
        open_journal(tmp_path / "out.journal", Path("out")),
    ):
        pass
    assert (tmp_path / "out.journal").read_bytes() == content
