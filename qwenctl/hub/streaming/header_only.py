"""A checkpoint without its weights: what is needed to plan a conversion before the shards are fetched.

A listing comes in; a folder goes out that a plan can be made of, laid out as in a cache so that the plan knows where
the checkpoint is from. Small files are there whole. Of a shard there is the header, fetched by its range, in a sparse
file of the shard's length. Headers are believed for planning; the shards' hashes are checked when they arrive.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.downloader import DownloadOptions, Progress, download_all
from qwenctl.hub.download.hub_api import DownloadUrl, read_range, resolve_url
from qwenctl.hub.download.retry import RetryPolicy
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.local.hf_cache import RepoCache, hash_of
from qwenctl.hub.repository.listing import Listing, RemoteFile

_SMALL = re.compile(r"[^/]+\.(json|jinja|txt)")
_SHARD = re.compile(r"[^/]+\.safetensors")
_LONGEST_SMALL, _LONGEST_HEADER, _FIRST_RANGE = 1 << 28, 100_000_000, 1 << 17


@dataclass(frozen=True)
class HeaderOnlyCheckpoint:
    """The folder and what its shards are: the path there, and the file of the repository, in their order."""

    folder: Path
    shards: dict[Path, RemoteFile]


def is_checkpoint(listing: Listing) -> bool:
    """Whether the repository is one of weights as they were published."""
    return listing.file("config.json") is not None and any(_SHARD.fullmatch(file.path) for file in listing.files)


def checkpoint_files(listing: Listing) -> list[RemoteFile]:
    """The files that a conversion reads: configuration, tokenizer, shards. Raises QwenctlError if there are none."""
    if not is_checkpoint(listing):
        raise QwenctlError(
            f"{listing.repository} is not a checkpoint: it has no config.json or no safetensors",
            f"qwenctl ls {listing.repository}",
            ExitCode.BAD_DATA,
        )
    small = [file for file in listing.files if _SMALL.fullmatch(file.path) and file.size <= _LONGEST_SMALL]
    return small + [file for file in listing.files if _SHARD.fullmatch(file.path)]


def fetch_headers_only(
    listing: Listing,
    root: Path,
    settings: DownloadOptions,
    tell: Callable[[str], None],
    warn: Callable[[QwenctlError], None],
) -> HeaderOnlyCheckpoint:
    """The skeleton of a checkpoint below `root`; what is there is used. Raises QwenctlError, OSError."""
    files = checkpoint_files(listing)
    folder = RepoCache(root, listing.repository).snapshot(listing.commit)
    folder.mkdir(parents=True, exist_ok=True)
    small = [
        DownloadTarget(file, folder / f"{file.path}.part", folder / file.path) for file in files if not _is_shard(file)
    ]
    lacking = [one for one in small if not _is_right(one.final, one.file)]
    if lacking:
        download_all(listing, lacking, settings, _unseen, warn)
    shards = {folder / file.path: file for file in files if _is_shard(file)}
    _fetch_headers(listing, {path: file for path, file in shards.items() if not _has_size(path, file)}, settings, tell)
    return HeaderOnlyCheckpoint(folder, shards)


def _is_shard(file: RemoteFile) -> bool:
    return bool(_SHARD.fullmatch(file.path))


def _is_right(path: Path, file: RemoteFile) -> bool:
    return _has_size(path, file) and hash_of(path, file) == file.etag


def _has_size(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _unseen(_progress: Progress) -> None:
    """The small files are there before anybody looks."""


def _fetch_headers(
    listing: Listing, lacking: dict[Path, RemoteFile], settings: DownloadOptions, tell: Callable[[str], None]
) -> None:
    """A sparse file with its header for each shard."""
    if lacking:
        tell(f"reading the header{'s' * (len(lacking) > 1)} of {len(lacking)} shard{'s' * (len(lacking) > 1)}")
    stop = threading.Event()
    patience = RetryPolicy(
        settings.patience, stop, lambda note: tell(f"waiting: {note}") if note else None, reached=True
    )

    def fetch(path: Path) -> None:
        file = lacking[path]
        header = patience.call(lambda: _header(resolve_url(listing, file)))
        new = path.with_name(f"{path.name}.new")
        with new.open("wb") as shard:
            shard.write(header)
            shard.truncate(file.size)
        os.utime(new, (0, 0))  # the plan's fingerprint knows a shard by its length and its time
        os.replace(new, path)

    try:
        _for_each(list(lacking), fetch, settings.connections)
    finally:
        stop.set()


def _for_each(paths: Sequence[Path], work: Callable[[Path], None], threads: int) -> None:
    """Call `work` for each path, several at once; raise what the first that fails raised.

    Nobody waits for the threads, for a request that gets no answer must not keep Ctrl-C from ending the program.
    """
    waiting, ended = deque(paths), SimpleQueue[BaseException | None]()

    def run() -> None:
        with suppress(IndexError):
            while True:
                path = waiting.popleft()
                try:
                    work(path)
                except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
                    ended.put(error)
                else:
                    ended.put(None)

    for _ in range(min(threads, len(paths))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in paths:
            if error := ended.get():
                raise error
    finally:
        waiting.clear()


def _header(link: DownloadUrl) -> bytes:
    """The first bytes of a shard, up to its weights: a length in 8 bytes, and as much JSON."""
    start = read_range(link, 0, min(_FIRST_RANGE, link.file.size))
    length = 8 + int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(_LONGEST_HEADER, link.file.size):
        raise QwenctlError(
            f"{link.file.path} is not a safetensors file: its header would have {length:,} bytes",
            "report it to the repository's owner",
            ExitCode.BAD_DATA,
        )
    return start[:length] if length <= len(start) else start + read_range(link, len(start), length)
