"""Quantizes a checkpoint while it downloads, for `qwenctl pull --quantize` and `qwenctl quantize REPOSITORY`.

Option values come in; `hub` and `quantize` do the work, and their results are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantize.formatting import format_bytes
from qwenctl.commands.quantize.result import check_parts, handle_sigterm, show_plan, show_result
from qwenctl.errors import QwenctlError
from qwenctl.terminal.streams import text_writer

if TYPE_CHECKING:
    from quantize.plan import QuantizeOptions
    from qwenctl.hub.local.lock_file import LockedFile
    from qwenctl.hub.pull import PullOptions
    from qwenctl.hub.repository.listing import Listing
    from qwenctl.hub.streaming.conversion import StreamingConversion

SPOOL_BYTES = 50 * 10**9


@dataclass(frozen=True)
class QuantizeJob:
    """How to run a conversion, apart from the options of its plan.

    `json` and `quiet` determine what is shown; with `yes`, the user is not asked. `asked_parts` are the options by
    which parts of the model were asked for: those must be there.
    """

    output: Path | None
    threads: int
    spool_bytes: int
    overwrite: bool
    dry_run: bool
    json: bool
    quiet: bool
    yes: bool = False
    asked_parts: tuple[str, ...] = ()


def fetch_listing(repository: str, revision: str, pull: PullOptions, notify: Callable[[str], None]) -> Listing:
    """The files of a repository. Raises QwenctlError; if the Hub cannot be reached, its hint counts local models."""
    from qwenctl.hub.download.http_errors import Unreachable
    from qwenctl.hub.download.hub_api import fetch_listing
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.hub.repository.model_name import check_revision

    try:
        return fetch_listing(repository, check_revision(revision or "main"), pull.download_options.patience, notify)
    except Unreachable as error:
        here = len(find_installed_models())
        hint = f"{error.hint}; `--offline` uses the {here} local model{'s' * (here != 1)}"
        raise QwenctlError(error.message, hint, error.code) from error


def quantize_remote(
    listing: Listing, options: QuantizeOptions, job: QuantizeJob, pull: PullOptions
) -> tuple[LockedFile, ...]:
    """Quantize a checkpoint while it downloads; the files made. With `job.dry_run`, only show the plan; no files."""
    from qwenctl.hub.streaming.conversion import convert_remote, plan_conversion
    from qwenctl.views.pull import pull_progress

    with pull_progress(sys.stderr, quiet=job.quiet or job.json) as (shown, report):
        planned = plan_conversion(listing, job.output, options, job.spool_bytes, pull, shown)
        with planned as remote, handle_sigterm():
            check_parts(remote.plan, job.asked_parts)
            if job.dry_run:
                show_plan(remote.plan, job.threads, as_json=job.json, more=_remote_fields(remote))
                if not job.json:
                    text_writer(sys.stdout)("".join(f"{line}\n" for line in _remote_lines(remote)))
                return ()
            shown.notify(_start_line(remote, job.threads))
            result, made = convert_remote(remote, job.threads, report, pull, shown, overwrite=job.overwrite)
    show_result(remote.plan, result, as_json=job.json, quiet=job.quiet)
    return made


def _start_line(remote: StreamingConversion, threads: int) -> str:
    from qwenctl.views.quantization import start_line

    most = remote.plan.n_bytes + remote.spool_bytes
    return (
        f"{start_line(remote.plan, threads)}, from {format_bytes(remote.source_bytes)} on the Hub; "
        f"{format_bytes(most)} of disk at most, instead of {format_bytes(remote.full_download_bytes)}"
    )


def _remote_lines(remote: StreamingConversion) -> list[str]:
    """What the conversion downloads and stores, compared with downloading everything first."""
    most, listing = remote.plan.n_bytes + remote.spool_bytes, remote.listing
    return [
        f"from the Hub: {format_bytes(remote.source_bytes)} of {listing.repository}@{listing.commit[:12]}",
        f"spool: up to {format_bytes(remote.spool_bytes)}, so {format_bytes(most)} of disk at most",
        f"downloading all of it first and converting it via BF16 would take {format_bytes(remote.full_download_bytes)}",
    ]


def _remote_fields(remote: StreamingConversion) -> dict[str, object]:
    return {
        "repository": remote.listing.repository, "commit": remote.listing.commit,
        "source_bytes": remote.source_bytes, "spool_bytes": remote.spool_bytes,
        "usual_bytes": remote.full_download_bytes,
    }  # fmt: skip
