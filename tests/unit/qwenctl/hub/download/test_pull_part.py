"""A partly downloaded file: when another thread may take it as complete, and what is left after reopening it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.hub.download.partial_file import open_partial_file
from tests.support.waiting import until


@pytest.mark.parametrize("size", [1, 12_298, 9_000_000])
def test_partial_file_reported_complete_is_not_written_again(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread writes to a slow disk; another finishes and closes the file as soon as all bytes are there."""
    part = open_partial_file(tmp_path / "file.part", size)
    slow = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *arguments: (time.sleep(0.05), slow(*arguments))[1])

    def write_all() -> None:
        for number in range(len(part.counts)):
            start, end = part.missing_range(number)
            part.write(number, bytes(end - start))

    thread = threading.Thread(target=write_all)
    thread.start()
    until(lambda: part.contiguous_bytes() == size)
    part.finish(tmp_path / "file")
    part.close()
    with (tmp_path / "another").open("wb") as another:  # it may reuse the file descriptor of the partial file
        thread.join()
        assert (tmp_path / "file").read_bytes() == bytes(size)
        assert os.fstat(another.fileno()).st_size == 0


@given(pieces=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), stop=st.integers(0, 8))
def test_partial_file_reopened_has_all_counted_bytes(
    pieces: list[bytes], stop: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, size = tmp_path_factory.mktemp("part") / "file.part", len(b"".join(pieces))
    part = open_partial_file(path, size)
    for piece in pieces[:stop]:
        part.write(0, piece)
    part.close()
    again = open_partial_file(path, size)
    counted = b"".join(pieces[:stop])
    assert (again.arrived, again.read(0, len(counted))) == (len(counted), counted)
    again.close()
