"""A partly downloaded file: when another thread may take it as complete, and what is left after reopening it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.hub.download.partial_file import PartialFileClosed, open_partial_file
from tests.support.waiting import until


class HeldWrites:
    """os.pwrite of a slow disk: the `number`-th call waits, before or after it writes, until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> None:
        self.reached, self.release = threading.Event(), threading.Event()
        self._calls, self._number, self._after, self._pwrite = 0, number, after, os.pwrite
        monkeypatch.setattr(os, "pwrite", self._write)

    def _write(self, descriptor: int, data: memoryview, offset: int) -> int:
        self._calls += 1
        held = self._calls == self._number
        written = self._pwrite(descriptor, data, offset) if self._after or not held else 0
        if held:
            self.reached.set()
            assert self.release.wait(30)
        return written if self._after or not held else self._pwrite(descriptor, data, offset)


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
    with (tmp_path / "another").open("wb") as another:  # it may reuse the file descriptor of the partial file
        thread.join()
        assert (tmp_path / "file").read_bytes() == bytes(size)
        assert os.fstat(another.fileno()).st_size == 0


@pytest.mark.parametrize("number", [1, 2], ids=["the bytes", "their count"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("end", ["finish", "close"])
def test_file_is_neither_finished_nor_closed_while_a_write_is_under_way(
    end: str, number: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write of bytes or of their count is held before or after it happens; only then may the file end."""
    part = open_partial_file(tmp_path / "file.part", 5)
    held = HeldWrites(monkeypatch, number, after=after)
    ending: Callable[[], None] = part.close if end == "close" else lambda: part.finish(tmp_path / "file")
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(part.write, 0, b"01234")
        assert held.reached.wait(30)
        assert part.arrived == 0  # it is published when it has happened
        ended = pool.submit(ending)
        time.sleep(0.02)
        assert not ended.done()
        held.release.set()
        writing.result(30)
        ended.result(30)
    if end == "finish":
        assert (tmp_path / "file").read_bytes() == b"01234"
    else:
        again = open_partial_file(tmp_path / "file.part", 5)
        assert again.arrived == 5
        again.close()


@pytest.mark.parametrize("end", ["finish", "close"])
def test_late_write_after_the_end_meets_no_other_file(end: str, tmp_path: Path) -> None:
    part = open_partial_file(tmp_path / "file.part", 5)
    if end == "finish":
        part.write(0, b"01234")
        part.finish(tmp_path / "file")
    else:
        part.close()
    with (tmp_path / "another").open("wb") as another:  # it reuses the file descriptor
        assert another.fileno() == part.descriptor
        for use in (lambda: part.write(0, b"late"), lambda: part.read(0, 1), part.reset):
            with pytest.raises(PartialFileClosed):
                use()
        with pytest.raises(PartialFileClosed):
            part.finish(tmp_path / "file")
        part.close()
        assert os.fstat(another.fileno()).st_size == 0


def test_close_gives_up_waiting_and_leaves_the_descriptor_to_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = open_partial_file(tmp_path / "file.part", 5)
    held = HeldWrites(monkeypatch, 1, after=False)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(part.write, 0, b"01234")
        assert held.reached.wait(30)
        part.close(0.01)
        held.release.set()
        writing.result(30)
    os.close(part.descriptor)  # it is still open
    assert (tmp_path / "file.part").read_bytes()[:5] == b"01234"


def test_more_bytes_than_a_segment_lacks_are_refused(tmp_path: Path) -> None:
    part = open_partial_file(tmp_path / "file.part", 5)
    with pytest.raises(ValueError, match="6 bytes for a segment that lacks 5"):
        part.write(0, b"012345")
    part.close()


def test_many_small_files_have_size_and_hash_under_their_final_names(tmp_path: Path) -> None:
    """Each file has a writer and a thread that finishes it as soon as it is complete."""
    contents = {f"{number}": os.urandom(1 + number % 97) for number in range(1000)}

    def write(name: str) -> tuple[str, int]:
        content = contents[name]
        part = open_partial_file(tmp_path / f"{name}.part", len(content))

        def verify() -> None:
            until(lambda: part.contiguous_bytes() == len(content))
            part.finish(tmp_path / name)

        thread = threading.Thread(target=verify)
        thread.start()
        for start in range(0, len(content), 40):
            part.write(0, content[start : start + 40])
        thread.join()
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(), (tmp_path / name).stat().st_size

    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(contents, pool.map(write, contents), strict=True))
    assert found == {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()}


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
