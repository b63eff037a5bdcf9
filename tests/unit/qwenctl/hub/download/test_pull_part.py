"""A part of a file that is being fetched: what one thread writes of it, and when another may take it as whole."""

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
def test_a_file_that_is_seen_to_be_whole_is_not_written_to_any_more(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread follows the bytes of another, and closes the file when all are there; a slow disk is in between."""
    part = open_partial_file(tmp_path / "file.part", size)
    slow = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *arguments: (time.sleep(0.05), slow(*arguments))[1])

    def bring() -> None:
        for number in range(len(part.counts)):
            start, end = part.missing_range(number)
            part.write(number, bytes(end - start))

    thread = threading.Thread(target=bring)
    thread.start()
    until(lambda: part.contiguous_bytes() == size)
    part.finish(tmp_path / "file")
    part.close()
    with (tmp_path / "another").open("wb") as another:  # it may have the number that the part had
        thread.join()
        assert (tmp_path / "file").read_bytes() == bytes(size)
        assert os.fstat(another.fileno()).st_size == 0


@given(pieces=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), stop=st.integers(0, 8))
def test_what_was_counted_is_there_when_it_is_opened_again(
    pieces: list[bytes], stop: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, size = tmp_path_factory.mktemp("part") / "file.part", len(b"".join(pieces))
    part = open_partial_file(path, size)
    for piece in pieces[:stop]:
        part.write(0, piece)
    part.close()
    again = open_partial_file(path, size)
    came = b"".join(pieces[:stop])
    assert (again.arrived, again.read(0, len(came))) == (len(came), came)
    again.close()
