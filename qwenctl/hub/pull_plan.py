"""What a pull will do, before its first byte: every file with its size and hash, what of it is here, and the room.

A listing and the chosen files come in, a frozen `PullPlan` goes out; nothing is fetched or written.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.formatting import size
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.partial_file import arrived_bytes
from qwenctl.hub.download.segment_queue import Wanted
from qwenctl.hub.local.hf_cache import RepoCache
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
    def wanted(self) -> list[Wanted]:
        """What is to be fetched, and to where."""
        return [Wanted(file, self.cache.part(file), self.cache.blob(file)) for file in self.missing]

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
    is_here = cache.has_right if verify else cache.has
    lacking = {file.etag: file for file in files if not is_here(file)}
    resumed = sum(arrived_bytes(cache.part(file), file.size) for file in lacking.values())
    return PullPlan(listing, label, tuple(files), cache, tuple(lacking.values()), resumed)


def check_room(plan: PullPlan, cleanable: int) -> None:
    """Raise QwenctlError if the disk has no room for what is missing, and 2 % more."""
    folder = existing(plan.cache.root)
    free, needed = shutil.disk_usage(folder).free, int(plan.needed_bytes * _MARGIN)
    if needed > free:
        clean = f", or `qwenctl clean` frees {size(cleanable)}" if cleanable else ""
        raise QwenctlError(
            f"needs {size(needed)}, {folder} has {size(free)} free ({size(needed - free)} short)",
            f"`--to DIR`, a smaller quant{clean}",
            ExitCode.IO,
        )


def existing(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
