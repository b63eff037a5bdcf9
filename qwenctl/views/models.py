"""Tables of models: what a repository offers, what a pull would download, what is installed.

Values of `hub` come in; tables go to a stream, or fields for JSON go out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

from quantize.formatting import format_bytes, format_memory
from qwenctl.hub.download.partial_file import arrived_bytes
from qwenctl.machine import free_disk
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import is_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qwenctl.hub.local.installed import InstalledModel
    from qwenctl.hub.pull import PullPlan
    from qwenctl.hub.select.available_quants import AvailableQuants
    from qwenctl.hub.select.fit import Fit

_NO_TERMINAL = 10_000  # columns: wide enough that no cell is folded


def _table(*columns: str) -> Table:
    """Return a table without lines. A column whose name starts with ">" is right-aligned and never folded."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        is_number = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _print(table: Table, stream: TextIO, *lines: str) -> None:
    """Write a table and `lines` below it: as wide as the terminal, or as wide as needed if there is none."""
    width = None if is_terminal(stream) else _NO_TERMINAL
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    rows = [line.rstrip() for line in captured.get().splitlines()]
    stream.write("".join(f"{line}\n" for line in (*rows, *lines)))
    stream.flush()


def print_offers(offers: AvailableQuants, fits: Sequence[Fit], stream: TextIO) -> None:
    """Write a table of the quantizations of a repository: size, bits per weight, and where each fits."""
    table = _table("quantization", ">size", ">bits/weight", "on this machine")
    for fit in fits:
        bits = offers.bits_per_weight(fit.candidate)
        where = "only ik_llama.cpp can load it" if fit.candidate.needs_llama_fork else fit.where
        table.add_row(
            clean_line(fit.candidate.label), format_bytes(fit.candidate.n_bytes), f"{bits:.2f}" if bits else "-", where
        )
    context = f"{format_memory(offers.context.n_bytes)} for {offers.context.tokens:,} tokens of context included"
    made = "quantized here while the checkpoint downloads; " if offers.needs_conversion else ""
    _print(table, stream, f"{made}{context}")


def offer_fields(offers: AvailableQuants, fits: Sequence[Fit]) -> list[dict[str, Any]]:
    """Return the table of `print_offers` as fields for JSON; sizes are in bytes."""
    return [
        {
            "quant": fit.candidate.label, "bytes": fit.candidate.n_bytes, "disk_bytes": fit.candidate.disk_bytes,
            "bits_per_weight": round(offers.bits_per_weight(fit.candidate), 3), "where": fit.where,
            "needed_bytes": fit.needed_bytes, "made_here": offers.needs_conversion,
            "foreign": fit.candidate.needs_llama_fork,
        }
        for fit in fits
    ]  # fmt: skip


def print_plan(plan: PullPlan, stream: TextIO) -> None:
    """Write a table of the files of a pull, what must be downloaded, and the free disk space."""
    table = _table("file", ">size", "state", "hash")
    for file in plan.files:
        state = _state(plan, file.etag)
        table.add_row(clean_line(file.path), format_bytes(file.size), state, file.etag[:12])
    listing, folder = plan.listing, plan.cache.root
    free, license_name = free_disk(folder), clean_line(plan.listing.license) or "unknown"
    _print(
        table, stream,
        f"from {clean_line(listing.repository)}@{listing.commit[:12]}, license {license_name}",
        f"to download: {format_bytes(plan.needed_bytes)} of {format_bytes(plan.n_bytes)}; "
        f"{format_bytes(free)} free in {clean_line(str(folder))}",
    )  # fmt: skip


def _state(plan: PullPlan, etag: str) -> str:
    """Return how much of a file is already here; `--json` has the same words."""
    missing = next((file for file in plan.missing if file.etag == etag), None)
    if missing is None:
        return "here"
    arrived = arrived_bytes(plan.cache.part_path(missing), missing.size)
    return f"{format_bytes(arrived)} here" if arrived else "to download"


def plan_fields(plan: PullPlan) -> dict[str, Any]:
    """Return the table of `print_plan` as fields for JSON; sizes are in bytes."""
    listing = plan.listing
    return {
        "repository": listing.repository, "commit": listing.commit, "quant": plan.label, "license": listing.license,
        "path": str(plan.first_path), "bytes": plan.n_bytes, "needed_bytes": plan.needed_bytes,
        "free_bytes": free_disk(plan.cache.root),
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256 or None, "git_sha1": file.git_sha1,
             "state": _state(plan, file.etag)}
            for file in plan.files
        ],
    }  # fmt: skip


def print_models(models: Sequence[InstalledModel], stream: TextIO) -> None:
    """Write a table of the installed models."""
    table = _table("model", ">size", "commit", "where")
    for model in models:
        name = clean_line(model.name) + (f" ({model.missing_parts} parts missing)" if model.missing_parts else "")
        where = (
            "quantized here: " + clean_line(str(model.path))
            if model.cache is None
            else clean_line(str(model.cache.root))
        )
        table.add_row(name, format_bytes(model.n_bytes), model.commit[:12] or "-", where)
    total = sum(model.n_bytes for model in models)
    _print(table, stream, f"{len(models)} model{'s' * (len(models) != 1)}, {format_bytes(total)}")


def model_fields(model: InstalledModel) -> dict[str, Any]:
    """Return the fields of an installed model for JSON; sizes are in bytes."""
    return {
        "name": model.name, "repository": model.repository, "quant": model.quant, "commit": model.commit,
        "bytes": model.n_bytes, "path": str(model.path), "made_here": model.cache is None,
        "missing_parts": model.missing_parts,
    }  # fmt: skip
