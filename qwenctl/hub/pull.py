"""A pull: one process at a time, the plan made again with what is here by then, fetched, named, noted.

A listing and the chosen files come in; they lie in the cache under their names when `pull_files` returns. What is shown
of it goes through a `Shown`, so that nothing here knows of a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quantize.formatting import size
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import exclusive
from qwenctl.hub.download.downloader import Progress, Settings, fetch_all
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.lock_file import add_to_lock, lock_model
from qwenctl.hub.local.stale_downloads import find_leftovers
from qwenctl.hub.pull_plan import PullPlan, check_room, plan_pull
from qwenctl.hub.repository.listing import Listing, RemoteFile


@dataclass(frozen=True)
class Shown:
    """Who hears of progress, of what is waited for, and of what went wrong and is being mended."""

    report: Callable[[Progress], None]
    tell: Callable[[str], None]
    warn: Callable[[QwenctlError], None]


@dataclass(frozen=True)
class PullOptions:
    """`wait` is for another process with the same model, in seconds; None: as long as it takes."""

    settings: Settings = field(default_factory=Settings)
    wait: float | None = None
    repair: bool = False


def pull_files(
    listing: Listing, label: str, files: Sequence[RemoteFile], cache: RepoCache, options: PullOptions, shown: Shown
) -> PullPlan:
    """Bring files of a repository into the cache; the plan that was followed. Raises QwenctlError.

    Where all is here already nothing is written, so that a cache can be one that is read-only.
    """
    if not options.repair:
        plan = plan_pull(listing, label, files, cache)
        if not plan.missing and cache.has_names(listing, files):
            return plan
    try:
        with exclusive(cache.lock_path, options.wait, shown.tell):
            if options.repair:
                shown.tell(f"hashing what is here: {size(sum(file.size for file in files if cache.has(file)))}")
            plan = plan_pull(listing, label, files, cache, verify=options.repair)
            check_room(plan, sum(one.n_bytes for one in find_leftovers(cache.root)))
            if plan.missing:
                fetch_all(listing, plan.wanted, options.settings, shown.report, shown.warn)
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
