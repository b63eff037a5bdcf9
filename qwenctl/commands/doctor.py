"""`qwenctl doctor`: what this machine has, what is wrong with it, and what to do about it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qwenctl.commands import options, placing
from qwenctl.commands.converting import print_json
from qwenctl.standard_streams import text_writer
from qwenctl.terminal_text import clean_line

Disk = Annotated[bool, typer.Option("--disk", help="Measure how fast models are read from their disks.")]
Measure = Annotated[bool, typer.Option("--measure", help="Measure the speed of the memories again.")]


def doctor_command(
    disk: Disk = False, measure: Measure = False, rpc: placing.Rpc = None, json: options.Json = False
) -> None:
    """Show what this machine has for running models, and what is wrong with it.

    The speed of the memories is measured the first time, and kept. Ends with 0 if nothing is wrong, otherwise with 1.
    """
    from qwenctl.doctor.examination import examine
    from qwenctl.doctor.report import as_json, rows
    from qwenctl.placement.reach import check_servers

    check_servers(rpc or ())
    found = examine(rpc or (), reads_disks=disk, again=measure)
    if json:
        print_json(as_json(found))
    else:
        lines = [f"{label:<10}{clean_line(text)}" for label, text in rows(found)]
        for finding in found.findings:
            lines += ["", f"! {clean_line(finding.message)}", f"  hint: {clean_line(finding.hint)}"]
        lines += [] if found.findings else ["", "nothing is wrong"]
        text_writer(sys.stdout)("\n".join(lines) + "\n")
    if found.findings:
        raise typer.Exit(1)
