"""What `qwenctl quantize` shows: a progress bar or lines, the table of a dry run, the files that were written.

Values of the `quantize` library come in; text goes out, or to a stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from quantize.formatting import format_bytes, format_duration, format_memory
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import LineSchedule, is_terminal

if TYPE_CHECKING:
    from quantize.convert import ConversionProgress, ConversionResult
    from quantize.plan import ConversionPlan
    from quantize.summary import FileSummary, Summary, SummaryRow

Report = Callable[["ConversionProgress"], None]


class ErasableBars(Bar):
    """Progress bars that leave a few columns free at the right, for the ^C that a terminal echoes.

    On a full line the ^C would wrap, and the bars would be erased one line too low.
    """

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the lines of the bars; called by rich."""
        yield _Narrower(self.make_tasks_table(self.tasks))


@dataclass(frozen=True)
class _Narrower:
    """Renders `inside` three columns narrower than the console."""

    inside: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render; called by rich."""
        yield from console.render(self.inside, options.update(width=max(1, options.max_width - 3)))


@contextmanager
def conversion_progress(start: str, stream: TextIO | None, *, quiet: bool) -> Iterator[Report]:
    """Inside, a function shows progress on `stream`, below the line `start`: a bar on a terminal, lines elsewhere."""
    if quiet or stream is None:
        yield lambda _: None
    elif is_terminal(stream) and os.environ.get("TERM") != "dumb":
        with _bar_reporter(start, stream) as report:
            yield report
    else:
        yield _line_reporter(start, stream)


@contextmanager
def _bar_reporter(start: str, stream: TextIO) -> Iterator[Report]:
    """Inside, show a bar that is erased at the end; it is redrawn when progress is reported, without a thread."""
    columns = (
        TextColumn("{task.description:17}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        DownloadColumn(table_column=Column(no_wrap=True)),
        TransferSpeedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(),
    )
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    bar = ErasableBars(*columns, console=console, transient=True, auto_refresh=False, expand=True)
    task = bar.add_task("", total=None)

    def report(progress: ConversionProgress) -> None:
        if bar.tasks[0].total is None:
            console.print(_with_resumed_bytes(start, progress), soft_wrap=True)
            # Bytes from an earlier run count as done, but not toward the rate.
            bar.reset(task, total=progress.total_bytes, completed=progress.resumed_bytes)
            bar.start()
        bar.update(task, completed=progress.done_bytes, description=progress.tensor_class, refresh=True)

    try:
        yield report
    finally:
        bar.stop()


def _line_reporter(start: str, stream: TextIO) -> Report:
    """Return a function that writes a line at the start, every 5 % and every 30 s, but at most one a second."""
    began_at, schedule, is_first = time.monotonic(), LineSchedule(), True

    def report(progress: ConversionProgress) -> None:
        nonlocal is_first
        share = progress.done_bytes / progress.total_bytes
        if is_first:
            line, is_first = _with_resumed_bytes(start, progress), False
        elif not schedule.is_due(share):
            return
        else:
            line = _progress_line(progress, time.monotonic() - began_at)
        schedule.mark_written(share)
        stream.write(f"{line}\n")
        stream.flush()

    return report


def _with_resumed_bytes(start: str, progress: ConversionProgress) -> str:
    return f"{start}, resuming at {format_bytes(progress.resumed_bytes)}" if progress.resumed_bytes else start


def _progress_line(progress: ConversionProgress, seconds: float) -> str:
    rate = (progress.done_bytes - progress.resumed_bytes) / seconds
    left = f", {format_duration((progress.total_bytes - progress.done_bytes) / rate)} left" if rate else ""
    done = f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}"
    share = progress.done_bytes / progress.total_bytes
    return f"{share:4.0%}  {done}, {format_bytes(rate)}/s{left}, {progress.tensor_class}"


def start_line(plan: ConversionPlan, threads: int) -> str:
    """Return what is about to be quantized: recipe, size, files and threads."""
    name, files = clean_line(plan.checkpoint.name), len(plan.files)
    made = f"{format_bytes(plan.n_bytes)} in {files} file{'s' * (files > 1)}"
    return f"quantizing {name} to {plan.recipe.name}: {made}, {threads} thread{'s' * (threads > 1)}"


def result_lines(files: Sequence[FileSummary], result: ConversionResult) -> list[str]:
    """Return a line for each file, and the time it all took."""
    resumed = f", {format_bytes(result.resumed_bytes)} of it from an earlier run" if result.resumed_bytes else ""
    return [*file_lines(files), f"done in {format_duration(result.wall_seconds)}{resumed}"]


def note_lines(notes: Sequence[str]) -> list[str]:
    """Return a line for each note of a plan: what was left out or decided against a part of the checkpoint."""
    return [f"note: {clean_line(note)}" for note in notes]


def file_lines(files: Sequence[FileSummary]) -> list[str]:
    """Return a line for each file: path, size and bits per weight."""
    return [
        f"{clean_line(str(file.path))}: {format_bytes(file.n_bytes)}, {file.bits_per_weight:.2f} bits per weight"
        for file in files
    ]


def print_summary(summary: Summary, stream: TextIO) -> None:
    """Write the table of a dry run, and below it the files and the disk space and memory needed."""
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    console.print(_table(summary), no_wrap=True)
    for line in file_lines(summary.files):
        console.print(line, soft_wrap=True)
    for line in note_lines(summary.notes):
        console.print(line, soft_wrap=True)
    room = summary.disk_space
    short = "" if room.needed <= room.free else f", {format_bytes(room.needed - room.free)} short"
    disk = (
        f"{format_bytes(room.needed)} needed, {format_bytes(room.free)} free in {clean_line(str(room.folder))}{short}"
    )
    console.print(f"disk: {disk}", soft_wrap=True)
    console.print(f"memory: up to {format_memory(summary.memory_bytes)} with {summary.threads} threads", soft_wrap=True)


def _table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in (("class", "left"), ("type", "left"), ("tensors", "right"), ("size", "right"), ("", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    total = sum(part.n_bytes for part in summary.rows)
    for _, group in groupby(summary.rows, key=lambda part: part.tensor_class):
        _add_rows(table, list(group), total)
    tensors = sum(part.tensors for part in summary.rows)
    table.add_row("total", summary.recipe, f"{tensors:,}", format_bytes(total), "")
    return table


def _add_rows(table: Table, parts: list[SummaryRow], total: int) -> None:
    """Add a row for each type of one tensor class; only the first row names the class."""
    for number, part in enumerate(parts):
        name = "" if number else part.tensor_class
        share = part.n_bytes / total
        table.add_row(name, part.type_name, f"{part.tensors:,}", format_bytes(part.n_bytes), f"{share:.1%}")
