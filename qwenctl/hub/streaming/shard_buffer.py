"""Download shards ahead of a conversion into a folder of limited size.

Shards of a listing come in; open files go out, as the `InputFiles` of `quantize.convert`. Shards arrive in repository
order, each verified. A shard is deleted when everything made from it is on disk, which frees space for the next.
Shards that a killed run has downloaded but not yet used are reused by the next run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from quantize.formatting import format_bytes
from quantize.plan import ConversionPlan
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.downloader import Download, DownloadOptions, Progress, run_download
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.streaming.header_only import HeaderOnlyCheckpoint

_POLL_SECONDS = 0.05
# Starts a download, given its targets and the callbacks `may_start` and `on_complete`.
_StartDownload = Callable[
    [Sequence[DownloadTarget], Callable[[DownloadTarget], bool], Callable[[DownloadTarget], None]], Download
]


class ShardBuffer:
    """See `open_shard_buffer`. `shards` are keyed by their path in the plan; their content is stored in `folder`.

    `limit` is the maximum size of the folder, `min_bytes` the size without which the conversion cannot finish.
    """

    def __init__(
        self, shards: Mapping[Path, RemoteFile], folder: Path, limit: int, min_bytes: int, start: _StartDownload
    ) -> None:
        self.files: dict[Path, int] = {}
        self._shards, self._folder, self._start_download = shards, folder, start
        self._limit, self._min_bytes = limit, min_bytes
        self._positions = {path: number for number, path in enumerate(shards)}
        # With the start of the hash in the name, a file of an older commit is not taken for this one.
        self._targets = {path: folder / f"{path.stem}-{file.etag[:16]}" for path, file in shards.items()}
        self._paths = {target: path for path, target in self._targets.items()}
        self._download: Download | None = None
        self._lock = threading.Lock()
        self._stored_bytes = 0  # in the folder, including what is reserved for active downloads
        self._local: set[Path] = set()  # files that have arrived
        self._earlier_bytes = 0  # downloaded by earlier runs, whether still stored or used up already

    def start(self, needed: Collection[Path]) -> None:
        """Start downloading the `needed` shards, as far as the limit allows; reuses those of an earlier run."""
        shards = [path for path in self._shards if path in needed]
        self._remove_unusable(shards)
        for path in needed - self._shards.keys():  # a local file: the importance matrix
            self.files[path] = os.open(path, os.O_RDONLY)
            self._local.add(path)
        self._local |= {path for path in shards if self._targets[path].exists()}
        self._stored_bytes = sum(self._shards[path].size for path in shards if path in self._local)
        self._earlier_bytes = (
            sum(file.size for path, file in self._shards.items() if path not in needed) + self._stored_bytes
        )
        targets = [self._target(path) for path in shards if path not in self._local]
        self._download = self._start_download(targets, self._reserve, self._on_complete)

    def position(self, path: Path) -> int:
        """The index of a shard in repository order, in which they arrive; -1 for local files."""
        return self._positions.get(path, -1)

    def wait(self, paths: Collection[Path], stop: threading.Event) -> None:
        """Block until all these files are open, or `stop` is set. Raises the error of the download."""
        while not self._local.issuperset(paths) and not stop.wait(_POLL_SECONDS):
            if self._download and self._download.error:
                raise self._download.error
        for path in self._local.intersection(paths) - self.files.keys():
            self.files[path] = os.open(self._targets[path], os.O_RDONLY)

    def release(self, path: Path) -> None:
        """Close a file, and delete it if it is a shard, which frees its space in the buffer."""
        if path in self.files:
            os.close(self.files.pop(path))
        if path in self._shards:
            self._targets[path].unlink(missing_ok=True)
            with self._lock:  # shared with `_reserve`, which the connections call
                self._stored_bytes -= self._shards[path].size

    def progress(self) -> Progress | None:
        """The progress of the download, including what earlier runs downloaded; None before it starts."""
        if self._download is None:
            return None
        progress, earlier_bytes = self._download.progress(), self._earlier_bytes
        return replace(
            progress,
            done_bytes=progress.done_bytes + earlier_bytes,
            total_bytes=progress.total_bytes + earlier_bytes,
            resumed_bytes=progress.resumed_bytes + earlier_bytes,
        )

    def close(self) -> None:
        """Close all open files."""
        for descriptor in self.files.values():
            os.close(descriptor)

    def _target(self, path: Path) -> DownloadTarget:
        target = self._targets[path]
        return DownloadTarget(self._shards[path], target.with_name(f"{target.name}.part"), target)

    def _reserve(self, target: DownloadTarget) -> bool:
        """Reserve space for a shard; False if the limit does not allow it yet."""
        with self._lock:
            if self._stored_bytes + target.file.size > self._limit:
                return False
            self._stored_bytes += target.file.size  # reserved in full before its first byte
            return True

    def _on_complete(self, target: DownloadTarget) -> None:
        """Make a verified shard available. Raises QwenctlError if its header differs from the one in the plan."""
        path = self._paths[target.final]
        with path.open("rb") as planned, target.final.open("rb") as shard:
            # The plan's offsets come from the header; it was not covered by a hash when it was downloaded.
            length = 8 + int.from_bytes(planned.read(8), "little")
            planned.seek(0)
            if planned.read(length) != shard.read(length):
                raise QwenctlError(
                    f"{target.file.path}: its header differs from the one downloaded for the plan",
                    "run again with --overwrite; if this repeats, the mirror in HF_ENDPOINT is damaged",
                    ExitCode.BAD_DATA,
                )
        self._local.add(path)

    def _remove_unusable(self, shards: Sequence[Path]) -> None:
        """Delete files of an earlier run that are not needed, or that would take space needed for earlier shards."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # Shards after the first missing one must wait for it. If they do not fit together with the minimum that the
        # conversion needs to get there, delete them; they are downloaded again in their turn.
        missing = [number for number, path in enumerate(shards) if not self._targets[path].exists()]
        early = [path for path in shards[min(missing, default=len(shards)) :] if self._targets[path].exists()]
        if sum(self._shards[path].size for path in early) + self._min_bytes > self._limit:
            shards = [path for path in shards if path not in early]
        names_to_keep = {self._targets[path].name for path in shards}
        for path in self._folder.iterdir():
            if path.name.removesuffix(".part") not in names_to_keep:
                path.unlink()


def min_buffer_bytes(plan: ConversionPlan, shards: Mapping[Path, RemoteFile]) -> int:
    """The minimum buffer size, in bytes, with which the conversion can finish.

    While a shard is downloading, all tensors that do not need it or a later one can be finished. So of the shards
    before it, only those must be stored that share a tensor with it or with a later shard.
    """
    positions = {path: number for number, path in enumerate(shards)}
    sizes = [file.size for file in shards.values()]
    last = list(range(len(sizes)))  # for each shard, the last shard that shares a tensor with it
    for tensor_plan in (tensor_plan for file in plan.files for tensor_plan in file.tensors):
        numbers = [positions[path] for path in tensor_plan.source_paths if path in positions]
        for number in numbers:
            last[number] = max(last[number], *numbers)
    # While shard `number` arrives, it and all earlier shards that are still needed then or later are stored.
    return max(
        sum(sizes[shard] for shard in range(number + 1) if last[shard] >= number) for number in range(len(sizes))
    )


@contextmanager
def open_shard_buffer(
    listing: Listing,
    plan: ConversionPlan,
    checkpoint: HeaderOnlyCheckpoint,
    folder: Path,
    limit: int,
    options: DownloadOptions,
    warn: Callable[[QwenctlError], None],
) -> Iterator[ShardBuffer]:
    """Download the shards of `plan` into `folder`, at most `limit` bytes at a time, while the block runs.

    Raises QwenctlError if `limit` is too small, or if the download fails.
    """
    shards = {path: file for path, file in checkpoint.shards.items() if path in plan.source_files()}
    min_bytes = min_buffer_bytes(plan, shards)
    if min_bytes > limit:
        raise QwenctlError(
            f"a spool of {format_bytes(limit)} is too small: shards needed together have {format_bytes(min_bytes)}",
            f"--spool {-(-min_bytes // 10**6)}MB",
        )
    with ExitStack() as stack:

        def start(
            targets: Sequence[DownloadTarget],
            may_start: Callable[[DownloadTarget], bool],
            on_complete: Callable[[DownloadTarget], None],
        ) -> Download:
            return stack.enter_context(run_download(listing, targets, options, warn, may_start, on_complete))

        shard_buffer = ShardBuffer(shards, folder, limit, min_bytes, start)
        stack.callback(shard_buffer.close)
        yield shard_buffer
