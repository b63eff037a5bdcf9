"""What a pull shows: a line for each file in flight and one for the sum, or plain lines where there is no terminal.

Values of `hub.fetch` come in, and of `quantize.convert` where a checkpoint is quantized while it arrives; text goes to
the stream that is given. Nothing is decided here.
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
    """A line of the display: `done` of `total` bytes of something, and what happens with it."""

    name: str
    done: int
    total: int
    state: str


@contextmanager
def pull_progress(stream: TextIO | None, *, quiet: bool) -> Iterator[tuple[PullEvents, Report]]:
    """Who hears of a pull, on `stream`; with `quiet` only what went wrong is shown.

    The second takes the progress of a fetch and of a conversion that follows it; the first is for a fetch alone.
    """
    if stream is None:
        yield PullEvents(lambda _: None, lambda _: None, lambda _: None), lambda _fetch, _conversion: None
    elif quiet:
        yield PullEvents(lambda _: None, lambda _: None, _writer(stream, _warning)), lambda _fetch, _conversion: None
    elif is_terminal(stream) and os.environ.get("TERM") != "dumb":
        with _bars(stream) as shown:
            yield shown
    else:
        report = _lines(stream)
        yield PullEvents(lambda fetch: report(fetch, None), _writer(stream, str), _writer(stream, _warning)), report


def _writer(stream: TextIO, to_text: Callable[..., str]) -> Callable[..., None]:
    def write(value: object) -> None:
        stream.write(f"{to_text(value)}\n")
        stream.flush()

    return write


def _warning(trouble: QwenctlError) -> str:
    hint = f"\n  hint: {clean_line(trouble.hint)}" if trouble.hint else ""
    return f"qwenctl: warning: {clean_line(trouble.message)}{hint}"


class _Amounts(ProgressColumn):
    """How much of how much, and what happens with it."""

    def render(self, task: Task) -> Text:
        """The column's text for one line."""
        return Text(
            f"{format_bytes(task.completed)} of {format_bytes(task.total or 0)}  {task.fields['state']}", no_wrap=True
        )


@contextmanager
def _bars(stream: TextIO) -> Iterator[tuple[PullEvents, Report]]:
    """Lines that leave nothing behind. They are redrawn when progress is reported, without a thread of their own."""
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
        files = [_Row(_short(one.path), one.arrived, one.size, one.state) for one in fetch.files] if fetch else []
        _draw(bars, shown, [*files, *_sums(fetch, conversion, rates)])

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    try:
        yield PullEvents(lambda fetch: report(fetch, None), say, lambda trouble: say(_warning(trouble))), report
    finally:
        bars.stop()


def _draw(bars: ErasableBars, shown: dict[str, TaskID], rows: Sequence[_Row]) -> None:
    """Show these rows, in their order."""
    if [row.name for row in rows] != list(shown):
        for name in list(shown):
            bars.remove_task(shown.pop(name))
        shown.update({row.name: bars.add_task(row.name, total=row.total, state=row.state) for row in rows})
    for row in rows:
        bars.update(shown[row.name], completed=row.done, total=row.total, state=row.state)
    bars.refresh()


def _short(path: str) -> str:
    """The end of a path, which tells files apart."""
    path = clean_line(path)
    return path if len(path) <= _NAME_WIDTH else f"…{path[1 - _NAME_WIDTH :]}"


def _sums(fetch: Progress | None, conversion: Conversion | None, rates: tuple[Rate, Rate]) -> Iterator[_Row]:
    """The sum of what is fetched, and of what is quantized."""
    if fetch is not None:
        name = "fetched" if conversion else "total"
        yield _Row(name, fetch.done_bytes, fetch.total_bytes, _fetch_state(fetch, rates[0], alone=conversion is None))
    if conversion is not None:
        done, total = conversion.done_bytes, conversion.total_bytes
        yield _Row("quantized", done, total, _conversion_state(conversion, rates[1]))


def _fetch_state(fetch: Progress, rate: Rate, *, alone: bool) -> str:
    """Rate and time left, or why nothing comes."""
    words = rate.in_words(fetch.done_bytes, fetch.total_bytes)
    if fetch.note:
        return f"waiting: {fetch.note}"
    if fetch.done_bytes == fetch.total_bytes:
        return "verifying" if fetch.files else "done"
    return words if fetch.files or alone else "waiting for disk space"


def _conversion_state(conversion: Conversion, rate: Rate) -> str:
    """Rate and time left, and what is at work."""
    words = rate.in_words(conversion.done_bytes, conversion.total_bytes)
    if conversion.done_bytes == conversion.total_bytes:
        return "done"
    return f"{words}, {conversion.tensor_class}" if conversion.tensor_class else "waiting"


class Rate:
    """Bytes a second, of late: an average that forgets what is long ago."""

    _SECONDS, _SHORTEST = 10.0, 0.2

    def __init__(self) -> None:
        self._rate = 0.0
        self._last: tuple[float, int] | None = None

    def in_words(self, done: int, total: int) -> str:
        """Rate and time left, now that `done` bytes of `total` are there."""
        self._follow(done)
        if self._rate < 1:
            return "waiting"
        return f"{format_bytes(self._rate)}/s, {format_duration((total - done) / self._rate)} left"

    def _follow(self, done: int) -> None:
        now = time.monotonic()
        if self._last is not None:
            seconds = now - self._last[0]
            if seconds < self._SHORTEST:
                return
            weight = min(1.0, seconds / self._SECONDS) if self._rate else 1.0
            self._rate += weight * ((done - self._last[1]) / seconds - self._rate)
        self._last = now, done


def _lines(stream: TextIO) -> Report:
    """A line now and then, and why nothing comes."""
    schedule, note = LineSchedule(at_once=True), ""
    rates = Rate(), Rate()

    def report(fetch: Progress | None, conversion: Conversion | None) -> None:
        nonlocal note
        rows = list(_sums(fetch, conversion, rates))
        done = rows[-1].done / max(1, rows[-1].total)
        trouble = fetch.note if fetch else ""
        if not schedule.is_due(done) and rows[-1].state != "done" and (not trouble or trouble == note):
            return
        schedule.mark_written(done)
        note = trouble
        amounts = "; ".join(
            f"{_named(row, rows)}{format_bytes(row.done)} of {format_bytes(row.total)}, {row.state}" for row in rows
        )
        stream.write(f"{done:4.0%}  {amounts}\n")
        stream.flush()

    return report


def _named(row: _Row, rows: Sequence[_Row]) -> str:
    return f"{row.name} " if len(rows) > 1 else ""
