"""`qwenctl doctor`: shows this machine's hardware, its problems, and how to solve them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options import load_options
from qwenctl.commands.quantize.result import print_json
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import text_writer

Disk = Annotated[bool, typer.Option("--disk", help="Measure how fast models are read from disk.")]
Measure = Annotated[bool, typer.Option("--measure", help="Measure memory bandwidth and check llama.cpp again.")]


def doctor_command(
    disk: Disk = False, measure: Measure = False, rpc: load_options.Rpc = None, json: options.Json = False
) -> None:
    """Check this machine for problems with running models.

    The first run measures memory bandwidth and checks llama.cpp by computing with a small model in several ways, which
    must agree; the results are saved. The exit code is 0 if there are no problems, and 1 otherwise.
    """
    from qwenctl.doctor.checks import run_checks
    from qwenctl.doctor.report import backend_check_rows, report_rows, to_json
    from qwenctl.machine.devices import check_servers

    check_servers(rpc or ())
    found = run_checks(rpc or (), reads_disks=disk, remeasure=measure)
    if json:
        print_json(to_json(found))
    else:
        lines = [f"{label:<10}{clean_line(text)}" for label, text in report_rows(found)]
        lines += ["", *_aligned(backend_check_rows(found.check))] if found.check else []
        for finding in found.findings:
            lines += ["", f"! {clean_line(finding.message)}", f"  hint: {clean_line(finding.hint)}"]
        lines += [] if found.findings else ["", "no problems found"]
        text_writer(sys.stdout)("\n".join(lines) + "\n")
    if found.findings:
        raise typer.Exit(1)


def _aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines with aligned columns. Indentation stays, other control characters do not."""
    cleaned = [[text[: len(text) - len(text.lstrip())] + clean_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    for row in cleaned:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
