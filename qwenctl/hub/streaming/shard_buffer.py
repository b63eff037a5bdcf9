"""Shards for a conversion, fetched ahead of it into a folder that never holds more than a limit.

`ShardBuffer` is the `InputFiles` of `quantize.convert`. Shards arrive in the order of the repository, each verified;
one is removed when all that was made of it is on the disk, which makes room for the next. What a killed run has fetched
and not yet used is used by the next one.
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

_LOOK_SECONDS = 0.05
_Start = Callable[
    [Sequence[DownloadTarget], Callable[[DownloadTarget], bool], Callable[[DownloadTarget], None]], Download
]


class ShardBuffer:
    """See `open_spool`. `shards` are by their path in the plan; their content lies in `folder` while it is here."""

    def __init__(self, shards: Mapping[Path, RemoteFile], folder: Path, limit: int, needed: int, start: _Start) -> None:
        self.files: dict[Path, int] = {}
        self._shards, self._folder, self._limit, self._needed, self._start = shards, folder, limit, needed, start
        self._positions = {path: number for number, path in enumerate(shards)}
        self._targets = {path: folder / f"{path.stem}-{file.etag[:16]}" for path, file in shards.items()}
        self._paths = {target: path for path, target in self._targets.items()}
        self._fetch: Download | None = None
        self._lock = threading.Lock()
        self._held = 0
        self._here: set[Path] = set()
        self._used_before = 0

    def begin(self, needed: Collection[Path]) -> None:
        """Fetch the shards that are needed, as far as the limit allows; those of an earlier run are here."""
        shards = [path for path in self._shards if path in needed]
        self._tidy(shards)
        for path in needed - self._shards.keys():  # an importance matrix
            self.files[path] = os.open(path, os.O_RDONLY)
            self._here.add(path)
        self._here |= {path for path in shards if self._targets[path].exists()}
        self._held = sum(self._shards[path].size for path in shards if path in self._here)
        self._used_before = sum(file.size for path, file in self._shards.items() if path not in needed) + self._held
        wanted = [self._wanted(path) for path in shards if path not in self._here]
        self._fetch = self._start(wanted, self._may_begin, self._landed)

    def position(self, path: Path) -> int:
        """Shards arrive in the order of the repository; what is no shard is here."""
        return self._positions.get(path, -1)

    def wait(self, paths: Collection[Path], stop: threading.Event) -> None:
        """Return when all these files are here, and open. Raises what kept one of them from coming."""
        while not self._here.issuperset(paths) and not stop.wait(_LOOK_SECONDS):
            if self._fetch and self._fetch.error:
                raise self._fetch.error
        for path in self._here.intersection(paths) - self.files.keys():
            self.files[path] = os.open(self._targets[path], os.O_RDONLY)

    def release(self, path: Path) -> None:
        """Remove a shard that nothing needs any more."""
        if path in self.files:
            os.close(self.files.pop(path))
        if path in self._shards:
            self._targets[path].unlink(missing_ok=True)
            with self._lock:
                self._held -= self._shards[path].size

    def progress(self) -> Progress | None:
        """How far the fetch is, what earlier runs have fetched included; None before it begins."""
        if self._fetch is None:
            return None
        found, before = self._fetch.progress(), self._used_before
        return replace(
            found,
            done_bytes=found.done_bytes + before,
            total_bytes=found.total_bytes + before,
            resumed_bytes=found.resumed_bytes + before,
        )

    def close(self) -> None:
        """Close what is open."""
        for descriptor in self.files.values():
            os.close(descriptor)

    def _wanted(self, path: Path) -> DownloadTarget:
        target = self._targets[path]
        return DownloadTarget(self._shards[path], target.with_name(f"{target.name}.part"), target)

    def _may_begin(self, wanted: DownloadTarget) -> bool:
        with self._lock:
            if self._held + wanted.file.size > self._limit:
                return False
            self._held += wanted.file.size
            return True

    def _landed(self, wanted: DownloadTarget) -> None:
        """A shard is here and verified. Its header must be the one that the plan was made of."""
        path = self._paths[wanted.final]
        with path.open("rb") as planned, wanted.final.open("rb") as shard:
            length = 8 + int.from_bytes(planned.read(8), "little")
            planned.seek(0)
            if planned.read(length) != shard.read(length):
                raise QwenctlError(
                    f"{wanted.file.path}: its header differs from the one downloaded for the plan",
                    "run again with --overwrite; if this repeats, the mirror in HF_ENDPOINT is damaged",
                    ExitCode.BAD_DATA,
                )
        self._here.add(path)

    def _tidy(self, shards: Sequence[Path]) -> None:
        """Remove what an earlier run left and this one does not need, or has no room for before its turn."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lacking = [number for number, path in enumerate(shards) if not self._targets[path].exists()]
        early = [path for path in shards[min(lacking, default=len(shards)) :] if self._targets[path].exists()]
        if sum(self._shards[path].size for path in early) + self._needed > self._limit:
            shards = [path for path in shards if path not in early]
        kept = {self._targets[path].name for path in shards}
        for found in self._folder.iterdir():
            if found.name.removesuffix(".part") not in kept:
                found.unlink()


def min_buffer_bytes(plan: ConversionPlan, shards: Mapping[Path, RemoteFile]) -> int:
    """The least room in which the conversion can go on to its end, in bytes.

    When a shard is to come, all tensors that do not need it can be finished; so of the shards before it only those must
    be here that have a part of a tensor that it, or a later one, has another part of.
    """
    positions = {path: number for number, path in enumerate(shards)}
    sizes = [file.size for file in shards.values()]
    last = list(range(len(sizes)))  # of each shard, the last that some tensor needs together with it
    for planned in (planned for file in plan.files for planned in file.tensors):
        numbers = [positions[path] for path in planned.paths if path in positions]
        for number in numbers:
            last[number] = max(last[number], *numbers)
    return max(sum(sizes[one] for one in range(number + 1) if last[one] >= number) for number in range(len(sizes)))


@contextmanager
def open_spool(
    listing: Listing,
    plan: ConversionPlan,
    skeleton: HeaderOnlyCheckpoint,
    folder: Path,
    limit: int,
    settings: DownloadOptions,
    warn: Callable[[QwenctlError], None],
) -> Iterator[ShardBuffer]:
    """The shards of `plan`, fetched into `folder` with at most `limit` bytes there. Raises QwenctlError."""
    used = {path: file for path, file in skeleton.shards.items() if path in plan.source_files()}
    needed = min_buffer_bytes(plan, used)
    if needed > limit:
        raise QwenctlError(
            f"a spool of {format_bytes(limit)} is too small: shards needed together have {format_bytes(needed)}",
            f"--spool {-(-needed // 10**6)}MB",
        )
    with ExitStack() as stack:

        def start(
            wanted: Sequence[DownloadTarget],
            may_begin: Callable[[DownloadTarget], bool],
            landed: Callable[[DownloadTarget], None],
        ) -> Download:
            return stack.enter_context(run_download(listing, wanted, settings, warn, may_begin, landed))

        spool = ShardBuffer(used, folder, limit, needed, start)
        stack.callback(spool.close)
        yield spool
