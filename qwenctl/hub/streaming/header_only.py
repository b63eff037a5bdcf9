"""Download a checkpoint without its weights: what is needed to plan a conversion before the shards are downloaded.

A listing comes in; a folder goes out from which a plan can be made. It is laid out like a cache, so that the plan can
derive repository and commit from its path. Small files are complete. Each shard is a sparse file of the shard's length
that contains only the header, downloaded as a byte range. Headers are trusted for planning; the shards' hashes are
verified when they arrive.
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

from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.files.atomic import atomic_write
from qwenctl.hub.download.downloader import DownloadOptions, Progress, download_all
from qwenctl.hub.download.hub_api import DownloadUrl, read_range, resolve_url
from qwenctl.hub.download.retry import RetryPolicy
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.repository.listing import Listing, RemoteFile, hash_content

# Only files at the top of the repository are part of the checkpoint.
_SMALL = re.compile(r"[^/]+\.(json|txt)|(additional_chat_templates/)?[^/]+\.jinja")
_SHARD = re.compile(r"[^/]+\.safetensors")
# A small file may have 256 MiB; a header 100 MB, the limit of the safetensors library.
_MAX_SMALL_BYTES, _MAX_HEADER_BYTES, _FIRST_RANGE_BYTES = 1 << 28, 100_000_000, 1 << 17


@dataclass(frozen=True)
class HeaderOnlyCheckpoint:
    """The folder, and its shards in repository order: local path to file of the repository."""

    folder: Path
    shards: dict[Path, RemoteFile]


def is_checkpoint(listing: Listing) -> bool:
    """Whether the repository has a checkpoint: config.json and safetensors shards."""
    return listing.find_file("config.json") is not None and any(_SHARD.fullmatch(file.path) for file in listing.files)


def checkpoint_files(listing: Listing) -> list[RemoteFile]:
    """The files that a conversion reads: configuration, tokenizer, shards. Raises QwenctlError if there are none."""
    if not is_checkpoint(listing):
        raise QwenctlError(
            f"{listing.repository} is not a checkpoint: it has no config.json or no safetensors",
            command_line("ls", listing.repository),
            ExitCode.BAD_DATA,
        )
    small = [file for file in listing.files if _SMALL.fullmatch(file.path) and file.size <= _MAX_SMALL_BYTES]
    return small + [file for file in listing.files if _SHARD.fullmatch(file.path)]


def fetch_headers_only(
    listing: Listing,
    root: Path,
    options: DownloadOptions,
    notify: Callable[[str], None],
    warn: Callable[[QwenctlError], None],
) -> HeaderOnlyCheckpoint:
    """Download a checkpoint without weights below `root`, reusing what exists. Raises QwenctlError, OSError."""
    files = checkpoint_files(listing)
    folder = RepoCache(root, listing.repository).snapshot_folder(listing.commit)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [
        DownloadTarget(file, folder / f"{file.path}.part", folder / file.path) for file in files if not _is_shard(file)
    ]
    for target in targets:  # some files are in a folder of their own
        target.final.parent.mkdir(exist_ok=True)
    missing = [target for target in targets if not _has_content(target.final, target.file)]
    if missing:
        download_all(listing, missing, options, _ignore_progress, warn)
    # A sparse file of the right size was completed: it is renamed to its name only with its header.
    shards = {folder / file.path: file for file in files if _is_shard(file)}
    _fetch_headers(listing, {path: file for path, file in shards.items() if not _has_size(path, file)}, options, notify)
    return HeaderOnlyCheckpoint(folder, shards)


def _is_shard(file: RemoteFile) -> bool:
    return bool(_SHARD.fullmatch(file.path))


def _has_content(path: Path, file: RemoteFile) -> bool:
    return _has_size(path, file) and hash_content(path, file.new_digest()) == file.etag


def _has_size(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _ignore_progress(_progress: Progress) -> None:
    """Ignore the progress: the small files arrive too quickly to show it."""


def _fetch_headers(
    listing: Listing, missing: dict[Path, RemoteFile], options: DownloadOptions, notify: Callable[[str], None]
) -> None:
    """Create a sparse file with the header for each missing shard. Raises QwenctlError, OSError."""
    if missing:
        notify(f"reading the header{'s' * (len(missing) > 1)} of {len(missing)} shard{'s' * (len(missing) > 1)}")
    stop = threading.Event()
    retry_policy = RetryPolicy(
        options.patience, stop, lambda note: notify(f"waiting: {note}") if note else None, reached=True
    )

    def fetch(path: Path) -> None:
        """Download the header of one shard into its sparse file."""
        file = missing[path]
        header = retry_policy.call(lambda: _read_header(resolve_url(listing, file)))
        with atomic_write(path, 0o666) as shard:
            shard.write(header)
            shard.truncate(file.size)
            # The plan's fingerprint uses size and mtime of a shard; make the latter constant.
            os.utime(shard.fileno(), (0, 0))

    try:
        _for_each(list(missing), fetch, options.connections)
    finally:
        stop.set()


def _for_each(paths: Sequence[Path], work: Callable[[Path], None], threads: int) -> None:
    """Call `work` for each path in up to `threads` threads; raises the first exception.

    The threads are not joined, because a request without a response must not keep Ctrl-C from ending the program.
    """
    pending, results = deque(paths), SimpleQueue[BaseException | None]()

    def run() -> None:
        with suppress(IndexError):
            while True:
                path = pending.popleft()
                try:
                    work(path)
                except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread must raise it
                    results.put(error)
                else:
                    results.put(None)

    for _ in range(min(threads, len(paths))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in paths:  # one result per path
            if error := results.get():
                raise error
    finally:
        pending.clear()  # the threads end after their current path


def _read_header(url: DownloadUrl) -> bytes:
    """Read the header of a shard: a length of 8 bytes, and JSON of that length. Raises QwenctlError, RetryableError."""
    data = read_range(url, 0, min(_FIRST_RANGE_BYTES, url.file.size))
    length = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_MAX_HEADER_BYTES, url.file.size):
        raise QwenctlError(
            f"{url.file.path} is not a safetensors file: its header would have {length:,} bytes",
            "report it to the repository's owner",
            ExitCode.BAD_DATA,
        )
    # One range is enough for most shards; only long headers need a second request.
    return data[:length] if length <= len(data) else data + read_range(url, len(data), length)
