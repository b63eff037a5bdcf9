"""What `qwenctl pull` shows: a bar for each file in progress and one for the total, or lines without a terminal.

Progress of `hub.download` comes in, and of `quantize.convert` if a checkpoint is quantized while it downloads; text
goes to a stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from quantize.formatting import format_bytes, format_duration
from qwenctl.hub.pull import PullEvents
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import LineSchedule, is_terminal
from qwenctl.views.quantization import ErasableBars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantize.convert import ConversionProgress as Conversion
    from qwenctl.errors import QwenctlError
    from qwenctl.hub.download.downloader import Progress

Report = Callable[["Progress | None", "Conversion | None"], None]
_NAME_WIDTH = 32


@dataclass(frozen=True)
class _Row:
    """A line of the display: `done` of `total` bytes of `name`, and its state."""

    name: str
    done: int
    total: int
    state: str


@contextmanager
def pull_progress(stream: TextIO | None, *, quiet: bool) -> Iterator[tuple[PullEvents, Report]]:
    """Inside, show a pull on `stream` (None: nothing); with `quiet`, only warnings.

    Yields events for a download alone, and a function that shows a download together with the conversion of its files.
    """
    if stream is None:
        yield PullEvents(lambda _: None, lambda _: None, lambda _: None), lambda _fetch, _conversion: None
    elif quiet:
        yield PullEvents(lambda _: None, lambda _: None, _writer(stream, _warning)), lambda _fetch, _conversion: None
    elif is_terminal(stream) and os.environ.get("TERM") != "dumb":
        with _bar_reporter(stream) as shown:
            yield shown
    else:
        report = _line_reporter(stream)
        yield PullEvents(lambda fetch: report(fetch, None), _writer(stream, str), _writer(stream, _warning)), report


def _writer(stream: TextIO, to_text: Callable[..., str]) -> Callable[..., None]:
    def write(value: object) -> None:
        stream.write(f"{to_text(value)}\n")
        stream.flush()

    return write


def _warning(error: QwenctlError) -> str:
    hint = f"\n  hint: {clean_line(error.hint)}" if error.hint else ""
    return f"qwenctl: warning: {clean_line(error.message)}{hint}"


class _Amounts(ProgressColumn):
    """A column with the bytes done, the total and the state."""

    def render(self, task: Task) -> Text:
        """Return the column's text for one line; called by rich."""
        return Text(
            f"{format_bytes(task.completed)} of {format_bytes(task.total or 0)}  {task.fields['state']}", no_wrap=True
        )


@contextmanager
def _bar_reporter(stream: TextIO) -> Iterator[tuple[PullEvents, Report]]:
    """Inside, show bars that are erased at the end; they are redrawn when progress is reported, without a thread."""
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=_NAME_WIDTH)),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        _Amounts(table_column=Column(no_wrap=True)),
    )
    bars = ErasableBars(*columns, console=console, transient=True, auto_refresh=False, expand=True)
    shown: dict[str, TaskID] = {}
    rates = Rate(), Rate()

    def report(fetch: Progress | None, conversion: Conversion | None) -> None:
        bars.start()
        files = (
            [_Row(_truncate_start(file.path), file.arrived, file.size, file.state) for file in fetch.files]
            if fetch
            else []
        )
        _draw_rows(bars, shown, [*files, *_total_rows(fetch, conversion, rates)])

    def write_line(text: str) -> None:
        console.print(text, soft_wrap=True)

    try:
        yield (
            PullEvents(lambda fetch: report(fetch, None), write_line, lambda error: write_line(_warning(error))),
            report,
        )
    finally:
        bars.stop()


def _draw_rows(bars: ErasableBars, shown: dict[str, TaskID], rows: Sequence[_Row]) -> None:
    """Show the rows in their order."""
    if [row.name for row in rows] != list(shown):
        for name in list(shown):
            bars.remove_task(shown.pop(name))
        shown.update({row.name: bars.add_task(row.name, total=row.total, state=row.state) for row in rows})
    for row in rows:
        bars.update(shown[row.name], completed=row.done, total=row.total, state=row.state)
    bars.refresh()


def _truncate_start(path: str) -> str:
    """Cut a long path at its start: its end tells files apart."""
    path = clean_line(path)
    return path if len(path) <= _NAME_WIDTH else f"…{path[1 - _NAME_WIDTH :]}"


def _total_rows(fetch: Progress | None, conversion: Conversion | None, rates: tuple[Rate, Rate]) -> Iterator[_Row]:
    """Yield a row for the whole download, and one for the conversion."""
    if fetch is not None:
        name = "fetched" if conversion else "total"
        yield _Row(name, fetch.done_bytes, fetch.total_bytes, _fetch_state(fetch, rates[0], alone=conversion is None))
    if conversion is not None:
        done, total = conversion.done_bytes, conversion.total_bytes
        yield _Row("quantized", done, total, _conversion_state(conversion, rates[1]))


def _fetch_state(fetch: Progress, rate: Rate, *, alone: bool) -> str:
    """Return rate and time left, or what the download waits for."""
    text = rate.describe(fetch.done_bytes, fetch.total_bytes)
    if fetch.note:
        return f"waiting: {fetch.note}"
    if fetch.done_bytes == fetch.total_bytes:
        return "verifying" if fetch.files else "done"
    return text if fetch.files or alone else "waiting for disk space"


def _conversion_state(conversion: Conversion, rate: Rate) -> str:
    """Return rate, time left and the tensor class being quantized."""
    text = rate.describe(conversion.done_bytes, conversion.total_bytes)
    if conversion.done_bytes == conversion.total_bytes:
        return "done"
    return f"{text}, {conversion.tensor_class}" if conversion.tensor_class else "waiting"


class Rate:
    """Bytes per second: an exponential moving average over about 10 s."""

    _SECONDS, _SHORTEST = 10.0, 0.2

    def __init__(self) -> None:
        self._rate = 0.0
        self._last: tuple[float, int] | None = None

    def describe(self, done: int, total: int) -> str:
        """Add the measurement that `done` of `total` bytes are done; return rate and time left as text."""
        self._update(done)
        if self._rate < 1:
            return "waiting"
        return f"{format_bytes(self._rate)}/s, {format_duration((total - done) / self._rate)} left"

    def _update(self, done: int) -> None:
        now = time.monotonic()
        if self._last is not None:
            seconds = now - self._last[0]
            if seconds < self._SHORTEST:
                return
            weight = min(1.0, seconds / self._SECONDS) if self._rate else 1.0
            self._rate += weight * ((done - self._last[1]) / seconds - self._rate)
        self._last = now, done


def _line_reporter(stream: TextIO) -> Report:
    """Return a function that writes a line every 5 %, every 30 s, and when the download starts to wait."""
    schedule, note = LineSchedule(at_once=True), ""
    rates = Rate(), Rate()

    def report(fetch: Progress | None, conversion: Conversion | None) -> None:
        nonlocal note
        rows = list(_total_rows(fetch, conversion, rates))
        done = rows[-1].done / max(1, rows[-1].total)
        waiting_for = fetch.note if fetch else ""
        if not schedule.is_due(done) and rows[-1].state != "done" and (not waiting_for or waiting_for == note):
            return
        schedule.mark_written(done)
        note = waiting_for
        amounts = "; ".join(
            f"{_row_prefix(row, rows)}{format_bytes(row.done)} of {format_bytes(row.total)}, {row.state}"
            for row in rows
        )
        stream.write(f"{done:4.0%}  {amounts}\n")
        stream.flush()

    return report


def _row_prefix(row: _Row, rows: Sequence[_Row]) -> str:
    return f"{row.name} " if len(rows) > 1 else ""
