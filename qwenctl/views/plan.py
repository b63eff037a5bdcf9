"""Prints a placement plan: memory bars, a table, the forecast and the reasons.

A `Plan` comes in; text goes to a stream, with colors if it is a terminal that has them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantize.formatting import format_memory, format_rate
from qwenctl.charts.plan import FREE, STYLES, TAKEN, bar_segments, forecast_line, memory_name, memory_table
from qwenctl.terminal.sanitize import clean_line
from qwenctl.terminal.streams import is_terminal

if TYPE_CHECKING:
    from qwenctl.placement.plan import MemoryPlan, Plan

_WIDTH, _LEAST_BAR, _LABEL = 100, 10, 30


def print_placement(plan: Plan, stream: TextIO) -> None:
    """Write the plan to `stream`: as wide as the terminal, or 100 columns."""
    console = Console(
        file=stream, width=None if is_terminal(stream) else _WIDTH, highlight=False, markup=False, emoji=False
    )
    colored = console.color_system is not None and "NO_COLOR" not in os.environ
    settings, width = plan.settings, max(_LEAST_BAR, console.width - _LABEL - 2)
    console.print(f"{clean_line(plan.model)}, {settings.context_tokens:,} tokens of context", soft_wrap=True)
    console.print()
    for memory in plan.memories:
        console.print(_memory_line(memory, width, colored=colored), soft_wrap=True)
    console.print(_legend(plan, width, colored=colored), soft_wrap=True)
    console.print()
    console.print(_table(plan))
    console.print()
    for line in _forecast_lines(plan):
        console.print(line)
    for reason in plan.reasons:
        console.print(f"- {clean_line(reason)}")


def _memory_line(memory: MemoryPlan, width: int, *, colored: bool) -> Text:
    """Return a memory's name, how much of it is used, and its bar of `width` cells."""
    text = Text(f"{memory_name(memory):<6}{format_memory(memory.n_bytes):>9} of {format_memory(memory.total_bytes):<9}")
    text.append(" ")
    for run in bar_segments(memory, width):
        text.append(*_style_cells(run.kind, run.cells, colored=colored))
    return text


def _style_cells(kind: str, cells: int, *, colored: bool) -> tuple[str, str]:
    """Return the text and style of some cells. Letters, because few colors would look alike for several classes."""
    color, letter = STYLES[kind]
    return letter * cells, f"black on {color}" if colored and kind != FREE else ""


def _legend(plan: Plan, width: int, *, colored: bool) -> Text:
    """Return what the letters mean, in lines no longer than those of the bars."""
    text, at = Text(), 0
    there = {run.kind for memory in plan.memories for run in bar_segments(memory, width)}
    for kind in STYLES:
        if kind in there:
            item = f" {_legend_name(kind)}   "
            if at and at + len(item) > width + _LABEL:
                text.append("\n")
                at = 0
            text.append(*_style_cells(kind, 1, colored=colored))
            text.append(item)
            at += 1 + len(item)
    return text


def _legend_name(kind: str) -> str:
    return {TAKEN: "used by others", FREE: "free"}.get(kind, kind)


def _table(plan: Plan) -> Table:
    names, *rows = memory_table(plan)
    shown = Table(box=None, pad_edge=False)
    for number, name in enumerate(names):
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def _forecast_lines(plan: Plan) -> list[str]:
    cast, settings = plan.forecast, plan.settings
    lines = [
        f"forecast: {forecast_line(plan)}",
        f"prompt: {format_rate(cast.prefill)} tokens/s, limited by {cast.prefill_limit}; "
        f"loading: {cast.load_seconds:,.0f} s from a typical NVMe disk",
        f"settings: -c {settings.context_tokens} -t {settings.threads} -b {settings.batch_tokens} "
        f"-ub {settings.micro_batch_tokens} -ctk {settings.cache_type_k} -ctv {settings.cache_type_v} "
        f"--load-mode {settings.load_mode}",
    ]
    if not plan.exact and len(plan.memories) > 1:
        lines.append("buffer sizes are estimates; they are measured when the file and the GPU are available")
    return lines
