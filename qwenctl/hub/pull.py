"""A pull: one process at a time, the plan made again with what is here by then, fetched, named, noted.

A listing and the chosen files come in; they lie in the cache under their names when `pull_files` returns. What is shown
of it goes through a `PullEvents`, so that nothing here knows of a terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quantize.formatting import format_bytes
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.hub.download.downloader import DownloadOptions, Progress, download_all
from qwenctl.hub.download.partial_file import arrived_bytes
from qwenctl.hub.download.segment_queue import DownloadTarget
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.lock_file import add_to_lock, lock_model
from qwenctl.hub.local.stale_downloads import find_leftovers
from qwenctl.hub.repository.listing import Listing, RemoteFile

_MARGIN = 1.02


@dataclass(frozen=True)
class PullPlan:
    """`missing` are the files to be fetched, of which `resumed_bytes` have arrived; the others are here."""

    listing: Listing
    label: str
    files: tuple[RemoteFile, ...]
    cache: RepoCache
    missing: tuple[RemoteFile, ...]
    resumed_bytes: int

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def needed_bytes(self) -> int:
        """Bytes that are still to come."""
        return sum(file.size for file in self.missing) - self.resumed_bytes

    @property
    def wanted(self) -> list[DownloadTarget]:
        """What is to be fetched, and to where."""
        return [DownloadTarget(file, self.cache.part(file), self.cache.blob(file)) for file in self.missing]

    @property
    def first_path(self) -> Path:
        """The path of the file to be loaded first, when all is here."""
        return self.cache.snapshot(self.listing.commit) / self.files[0].path


def plan_pull(
    listing: Listing, label: str, files: Sequence[RemoteFile], cache: RepoCache, *, verify: bool = False
) -> PullPlan:
    """The plan for `files`, the one to be loaded first in front. Contents that are there twice are fetched once.

    What is here counts by its length, or with `verify` by its hash.
    """
    is_here = cache.has_verified if verify else cache.has
    lacking = {file.etag: file for file in files if not is_here(file)}
    resumed = sum(arrived_bytes(cache.part(file), file.size) for file in lacking.values())
    return PullPlan(listing, label, tuple(files), cache, tuple(lacking.values()), resumed)


def check_room(plan: PullPlan, cleanable: int) -> None:
    """Raise QwenctlError if the disk has no room for what is missing, and 2 % more."""
    folder = nearest_existing_dir(plan.cache.root)
    free, needed = shutil.disk_usage(folder).free, int(plan.needed_bytes * _MARGIN)
    if needed > free:
        clean = f", or `qwenctl clean` frees {format_bytes(cleanable)}" if cleanable else ""
        raise QwenctlError(
            f"needs {format_bytes(needed)}, {folder} has {format_bytes(free)} free "
            f"({format_bytes(needed - free)} short)",
            f"`--to DIR`, a smaller quantization{clean}",
            ExitCode.IO,
        )


def nearest_existing_dir(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


@dataclass(frozen=True)
class PullEvents:
    """Who hears of progress, of what is waited for, and of what went wrong and is being mended."""

    report: Callable[[Progress], None]
    tell: Callable[[str], None]
    warn: Callable[[QwenctlError], None]


@dataclass(frozen=True)
class PullOptions:
    """`wait` is for another process with the same model, in seconds; None: as long as it takes."""

    settings: DownloadOptions = field(default_factory=DownloadOptions)
    wait: float | None = None
    repair: bool = False


def pull_files(
    listing: Listing, label: str, files: Sequence[RemoteFile], cache: RepoCache, options: PullOptions, shown: PullEvents
) -> PullPlan:
    """Bring files of a repository into the cache; the plan that was followed. Raises QwenctlError.

    Where all is here already nothing is written, so that a cache can be one that is read-only.
    """
    if not options.repair:
        plan = plan_pull(listing, label, files, cache)
        if not plan.missing and cache.is_published(listing, files):
            return plan
    try:
        with file_lock(cache.lock_path, options.wait, shown.tell):
            if options.repair:
                shown.tell(f"hashing what is here: {format_bytes(sum(file.size for file in files if cache.has(file)))}")
            plan = plan_pull(listing, label, files, cache, verify=options.repair)
            check_room(plan, sum(one.n_bytes for one in find_leftovers(cache.root)))
            if plan.missing:
                download_all(listing, plan.wanted, options.settings, shown.report, shown.warn)
            model = lock_model(listing, label, [(file, cache.blob(file)) for file in files])
            add_to_lock(cache.snapshot(listing.commit), model)  # before the names, by which a later pull knows the end
            cache.publish(listing, files)
            return plan
    except OSError as error:
        raise cannot_write(cache, error) from error


def cannot_write(cache: RepoCache, error: OSError) -> QwenctlError:
    """The cache is not ours to write."""
    reason = (error.strerror or str(error)).lower()
    hint = "`--to DIR` or HF_HUB_CACHE=...; reading still works"
    return QwenctlError(f"cannot write to {cache.root} ({reason})", hint, ExitCode.CANNOT_CREATE)
