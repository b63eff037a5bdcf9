"""Plan and execute a pull: lock the repository, download what is missing, record it, and publish the files.

A listing and the chosen files come in; they are in the cache under their names when `pull_files` returns. Progress and
messages go through `PullEvents`; the terminal is not known here.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantize.formatting import format_bytes
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.files.paths import nearest_existing
from qwenctl.hub.download.downloader import DownloadOptions, Progress, download_all
from qwenctl.hub.download.partial_file import arrived_bytes
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.lock_file import add_to_lock, make_lock_entry
from qwenctl.hub.local.stale_downloads import find_stale_downloads
from qwenctl.hub.repository.listing import Listing, RemoteFile

_MARGIN = 1.02  # free space for this many times the bytes: file systems need some for themselves


@dataclass(frozen=True)
class PullPlan:
    """What a pull will do. `missing` files are to be downloaded; an earlier pull has `resumed_bytes` of them."""

    listing: Listing
    label: str  # of the quantization, for the lock file
    files: tuple[RemoteFile, ...]
    cache: RepoCache
    missing: tuple[RemoteFile, ...]
    resumed_bytes: int

    @property
    def n_bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self.files)

    @property
    def needed_bytes(self) -> int:
        """Bytes that are still to be downloaded."""
        return sum(file.size for file in self.missing) - self.resumed_bytes

    @property
    def targets(self) -> list[DownloadTarget]:
        """The missing files with their partial and final paths."""
        return [DownloadTarget(file, self.cache.part_path(file), self.cache.blob_path(file)) for file in self.missing]

    @property
    def first_path(self) -> Path:
        """The path of the file to load, once the pull is complete."""
        return self.cache.snapshot_folder(self.listing.commit) / self.files[0].path


def plan_pull(
    listing: Listing, label: str, files: Sequence[RemoteFile], cache: RepoCache, *, verify: bool = False
) -> PullPlan:
    """Plan the pull of `files`; the first is the one to load. Files with the same content are downloaded once.

    A file counts as present if its length is right, or with `verify`, if its hash is.
    """
    is_present = cache.has_verified if verify else cache.has
    # Keyed by hash: files with the same content have the same blob.
    missing = {file.etag: file for file in files if not is_present(file)}
    resumed = sum(arrived_bytes(cache.part_path(file), file.size) for file in missing.values())
    return PullPlan(listing, label, tuple(files), cache, tuple(missing.values()), resumed)


def check_disk_space(plan: PullPlan, cleanable: int) -> None:
    """Raise QwenctlError if the missing bytes plus 2 % do not fit on the disk; `cleanable` bytes are suggested."""
    folder = nearest_existing(plan.cache.root)
    free, needed = shutil.disk_usage(folder).free, int(plan.needed_bytes * _MARGIN)
    if needed > free:
        clean = f", or `qwenctl clean` frees {format_bytes(cleanable)}" if cleanable else ""
        raise QwenctlError(
            f"needs {format_bytes(needed)}, {folder} has {format_bytes(free)} free "
            f"({format_bytes(needed - free)} short)",
            f"`--to DIR`, a smaller quantization{clean}",
            ExitCode.IO,
        )


def check_writable(root: Path) -> None:
    """Raise QwenctlError if the folder `root` cannot exist or be written, whatever the free disk space."""
    existing = nearest_existing(root)
    if not existing.is_dir():
        raise cannot_write_error(root, NotADirectoryError(errno.ENOTDIR, f"{existing} is a file"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise cannot_write_error(root, PermissionError(errno.EACCES, f"no permission to write to {existing}"))
    if not shutil.disk_usage(existing).total:  # /proc and the like
        raise cannot_write_error(root, OSError(errno.EROFS, f"nothing can be stored in {existing}"))


@dataclass(frozen=True)
class PullEvents:
    """Callbacks: `report` for progress, `notify` for status lines, `warn` for problems that are being fixed."""

    report: Callable[[Progress], None]
    notify: Callable[[str], None]
    warn: Callable[[QwenctlError], None]


@dataclass(frozen=True)
class PullOptions:
    """How to pull. `wait` is the timeout in seconds for another process with the same model; None waits forever.

    With `repair`, present files are verified by hash and replaced if they are wrong.
    """

    download_options: DownloadOptions = field(default_factory=DownloadOptions)
    wait: float | None = None
    repair: bool = False


def pull_files(
    listing: Listing,
    label: str,
    files: Sequence[RemoteFile],
    cache: RepoCache,
    options: PullOptions,
    events: PullEvents,
) -> PullPlan:
    """Download files of a repository into the cache; returns the plan that was executed. Raises QwenctlError.

    If everything is present already, nothing is written, so that a read-only cache works.
    """
    if not options.repair:
        plan = plan_pull(listing, label, files, cache)
        if not plan.missing and cache.is_published(listing, files):
            return plan
    try:
        with file_lock(cache.lock_path, options.wait, events.notify):
            if options.repair:
                events.notify(
                    f"hashing what is here: {format_bytes(sum(file.size for file in files if cache.has(file)))}"
                )
            # Plan again under the lock: another process may have downloaded files while this one waited.
            plan = plan_pull(listing, label, files, cache, verify=options.repair)
            check_disk_space(plan, sum(stale.n_bytes for stale in find_stale_downloads(cache.root)))
            if plan.missing:
                download_all(listing, plan.targets, options.download_options, events.report, events.warn)
            model = make_lock_entry(listing, label, [(file, cache.blob_path(file)) for file in files])
            add_to_lock(
                cache.snapshot_folder(listing.commit), model
            )  # before `publish`, by which a later pull recognizes completion
            cache.publish(listing, files)
            return plan
    except OSError as error:
        raise cannot_write_error(cache.root, error) from error


def cannot_write_error(root: Path, error: OSError) -> QwenctlError:
    """The error for a cache folder that cannot be written."""
    reason = (error.strerror or str(error)).lower()
    hint = "`--to DIR` or HF_HUB_CACHE=...; reading still works"
    return QwenctlError(f"cannot write to {root} ({reason})", hint, ExitCode.CANNOT_CREATE)
