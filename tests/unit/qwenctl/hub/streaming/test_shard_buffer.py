"""Shards that arrive ahead of a conversion: never more than the limit on disk, and reused by the next run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.plan import ConversionPlan
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.downloader import Download, Progress
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.repository.listing import RemoteFile
from qwenctl.hub.streaming.shard_buffer import ShardBuffer, min_buffer_bytes

HEADER = (4).to_bytes(8, "little") + b"head"


@dataclass
class Arrivals:
    """Stands for the download: shards arrive when a test says so."""

    targets: Sequence[DownloadTarget] = ()
    may_start: Callable[[DownloadTarget], bool] = lambda _: False
    on_complete: Callable[[DownloadTarget], None] = lambda _: None
    error: QwenctlError | None = None
    done_bytes: int = 0

    def start(
        self,
        targets: Sequence[DownloadTarget],
        may_start: Callable[[DownloadTarget], bool],
        on_complete: Callable[[DownloadTarget], None],
    ) -> Download:
        self.targets, self.may_start, self.on_complete = targets, may_start, on_complete
        return cast("Download", self)

    def progress(self) -> Progress:
        return Progress((), self.done_bytes, sum(target.file.size for target in self.targets), 0, "")

    def arrive(self, number: int, data: bytes) -> None:
        target = self.targets[number]
        assert self.may_start(target)
        target.final.write_bytes(data)
        self.on_complete(target)


@dataclass
class Fixture:
    """Three shards of 100 bytes, a buffer for two of them, and the download."""

    folder: Path
    limit: int = 200
    arrivals: Arrivals = field(default_factory=Arrivals)

    def __post_init__(self) -> None:
        self.paths = [self.folder / "plan" / f"shard-{number}.safetensors" for number in range(3)]
        self.folder.joinpath("plan").mkdir(exist_ok=True)
        for path in self.paths:
            path.write_bytes(HEADER)
        shards = {path: RemoteFile(path.name, 100, "", f"{number}" * 64) for number, path in enumerate(self.paths)}
        self.buffer = ShardBuffer(shards, self.folder / "buffer", self.limit, 100, self.arrivals.start)

    def shard(self, content: bytes = b"") -> bytes:
        return (HEADER + content).ljust(100, b".")

    @property
    def stored(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "buffer").iterdir())


@pytest.fixture
def made(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path)


def test_shards_start_only_while_they_fit_and_continue_after_a_release(made: Fixture) -> None:
    made.buffer.start(set(made.paths))
    first, second, third = made.arrivals.targets
    assert [made.arrivals.may_start(target) for target in (first, second, third)] == [True, True, False]
    made.buffer.release(made.paths[0])
    assert made.arrivals.may_start(third)


def test_shard_that_has_arrived_is_opened_and_read(made: Fixture) -> None:
    made.buffer.start(set(made.paths))
    made.arrivals.arrive(0, made.shard(b"weights"))
    made.buffer.wait([made.paths[0]], threading.Event())
    with open(made.buffer.files[made.paths[0]], "rb", closefd=False) as file:
        assert file.read() == made.shard(b"weights")
    made.buffer.release(made.paths[0])
    assert made.buffer.files == {}
    assert made.stored == []


def test_waiting_raises_the_error_of_the_download(made: Fixture) -> None:
    made.buffer.start(set(made.paths))
    made.arrivals.error = QwenctlError("no route to the Hub")
    with pytest.raises(QwenctlError, match="no route"):
        made.buffer.wait([made.paths[0]], threading.Event())


def test_waiting_ends_when_the_conversion_is_stopped(made: Fixture) -> None:
    made.buffer.start(set(made.paths))
    stop = threading.Event()
    stop.set()
    made.buffer.wait([made.paths[0]], stop)
    assert made.buffer.files == {}


def test_shard_with_another_header_than_the_plan_is_refused(made: Fixture) -> None:
    made.buffer.start(set(made.paths))
    with pytest.raises(QwenctlError, match="header differs") as caught:
        made.arrivals.arrive(0, b"\4" + bytes(7) + b"HEAD".ljust(92, b"."))
    assert caught.value.code == ExitCode.BAD_DATA


def test_next_run_reuses_shards_and_counts_them_as_resumed(made: Fixture, tmp_path: Path) -> None:
    made.buffer.start(set(made.paths))
    made.arrivals.arrive(0, made.shard())
    made.arrivals.arrive(1, made.shard())
    again = Fixture(tmp_path)
    again.buffer.start(set(again.paths[1:]))  # the first is used up
    assert [target.file.path for target in again.arrivals.targets] == ["shard-2.safetensors"]
    assert again.stored == ["shard-1-" + 16 * "1"]
    again.arrivals.done_bytes = 50
    progress = again.buffer.progress()
    assert progress is not None
    assert (progress.done_bytes, progress.total_bytes, progress.resumed_bytes) == (250, 300, 200)
    again.buffer.close()


def test_next_run_deletes_late_shards_that_leave_no_room_for_earlier_ones(made: Fixture, tmp_path: Path) -> None:
    made.buffer.start(set(made.paths))
    (tmp_path / "buffer" / ("shard-2-" + 16 * "2")).write_bytes(made.shard())
    (tmp_path / "buffer" / "of-another-commit").write_bytes(b"")
    small = Fixture(tmp_path, limit=150)
    small.buffer.start(set(small.paths))
    assert small.stored == []
    assert len(small.arrivals.targets) == 3


def test_position_is_repository_order_and_local_files_come_first(made: Fixture, tmp_path: Path) -> None:
    assert [made.buffer.position(path) for path in (*made.paths, tmp_path / "imatrix.gguf")] == [0, 1, 2, -1]


def plan_of(tensors: Sequence[frozenset[Path]]) -> ConversionPlan:
    """As much of a plan as the buffer size depends on: the source files of each tensor."""
    planned = [SimpleNamespace(source_paths=sources) for sources in tensors]
    return cast("ConversionPlan", SimpleNamespace(files=(SimpleNamespace(tensors=planned),)))


def shards_of(sizes: Sequence[int]) -> dict[Path, RemoteFile]:
    return {Path(str(number)): RemoteFile(str(number), size, "") for number, size in enumerate(sizes)}


@pytest.mark.parametrize(
    ("tensors", "n_bytes"),
    [
        ([{0}, {1}, {2}], 30),  # none is shared: the largest shard
        ([{0, 1}, {2}], 30),
        ([{0, 2}, {1}], 40),  # the first must be stored until the last is there
        ([{1, 2}], 50),
    ],
)
def test_smallest_buffer_holds_shards_that_share_a_tensor(tensors: list[set[int]], n_bytes: int) -> None:
    sources = [frozenset(Path(str(number)) for number in numbers) for numbers in tensors]
    assert min_buffer_bytes(plan_of(sources), shards_of([10, 20, 30])) == n_bytes


@given(st.data())
def test_smallest_buffer_is_between_the_largest_shard_and_all_of_them(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 100), min_size=1, max_size=6))
    numbers: Any = st.frozensets(st.integers(0, len(sizes) - 1).map(lambda number: Path(str(number))), min_size=1)
    tensors = data.draw(st.lists(numbers, max_size=6))
    found = min_buffer_bytes(plan_of(tensors), shards_of(sizes))
    assert max(sizes) <= found <= sum(sizes)
    assert found <= min_buffer_bytes(plan_of([*tensors, frozenset(map(Path, "0"))]), shards_of(sizes))
