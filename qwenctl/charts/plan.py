"""The chart of a placement plan: a bar for each memory, colored by tensor class.

A `Plan` or a `MemoryPlan` comes in; bar segments, table rows or an SVG go out. How a terminal shows colors is not known
here.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantize.formatting import format_memory, format_rate
from qwenctl.charts.svg import draw_label, draw_rectangle, make_document
from qwenctl.placement.plan import CLASSES, MemoryPlan, Plan
from qwenctl.protocol.placement import CPU

TAKEN, FREE = "taken", "free"
# A color, distinguishable with color blindness (after Okabe and Ito), and a letter for each class.
STYLES = {
    "attention": ("#0072b2", "A"), "linear attention": ("#56b4e9", "L"), "shared expert": ("#009e73", "S"),
    "feed-forward": ("#009e73", "F"), "norms and routers": ("#8fbc8f", "N"), "embeddings": ("#cc79a7", "E"),
    "MTP": ("#9467bd", "M"), "routed experts": ("#e69f00", "X"), "vision": ("#bcbd22", "V"),
    "KV cache": ("#d55e00", "K"), "state": ("#b22222", "R"), "buffers": ("#999999", "B"), "snapshots": ("#c7c7c7", "Z"),
    TAKEN: ("#555555", "#"), FREE: ("#f0f0f0", "."),
}  # fmt: skip
_BAR_WIDTH, _BAR_HEIGHT, _LEFT, _LINE = 640, 26, 150, 44


@dataclass(frozen=True)
class BarSegment:
    """Adjacent cells of one class."""

    kind: str
    cells: int


def bar_segments(memory: MemoryPlan, width: int) -> tuple[BarSegment, ...]:
    """Divide `width` cells among the bytes of a memory: used by others, its parts, free.

    If the parts do not fit, as with paging, the whole bar stands for them and what others use, and nothing is free.
    """
    shares = _byte_shares(memory)
    total = sum(n_bytes for _, n_bytes in shares)
    if total == 0:
        return (BarSegment(FREE, width),)
    runs, at, total_so_far = [], 0, 0
    # The running sum is rounded, not each part, so that rounding errors do not add up.
    for kind, n_bytes in shares:
        total_so_far += n_bytes
        end = round(total_so_far * width / total)
        if end > at:
            runs.append(BarSegment(kind, end - at))
        at = end
    return tuple(runs)


def memory_name(memory: MemoryPlan) -> str:
    """Return the name to show: "RAM" for the CPU's memory."""
    return "RAM" if memory.name == CPU else memory.name


def memory_table(plan: Plan) -> list[list[str]]:
    """Return the rows of a table: the memories' names, sizes by class, totals, free memory and expert layers."""
    rows = [["", *map(memory_name, plan.memories)]]
    for kind in CLASSES:
        sizes = [memory.of(kind) for memory in plan.memories]
        if any(sizes):
            rows.append([kind, *(format_memory(n_bytes) if n_bytes else "-" for n_bytes in sizes)])
    rows.append(["total", *(format_memory(memory.n_bytes) if memory.n_bytes else "-" for memory in plan.memories)])
    rows.append(["free before", *(format_memory(memory.free_bytes) for memory in plan.memories)])
    layers = [next((part.layers for part in memory.parts if part.layers), "-") for memory in plan.memories]
    return [*rows, ["expert layers", *layers]] if any(text != "-" for text in layers) else rows


def render_plan(plan: Plan) -> str:
    """Return the text of an SVG: the bars, and a legend of the classes in them."""
    kinds = [
        kind
        for kind in STYLES
        if any(kind == run.kind for memory in plan.memories for run in bar_segments(memory, _BAR_WIDTH))
    ]
    height = _LINE * (len(plan.memories) + 2) + 20 * -(-len(kinds) // 4)
    lines = [draw_label(10, 24, f"{plan.model}: {forecast_line(plan)}", size=15, within=_LEFT + _BAR_WIDTH)]
    for number, memory in enumerate(plan.memories):
        lines += _render_bar(memory, 40 + _LINE * number)
    for number, kind in enumerate(kinds):
        x, y = _LEFT + number % 4 * 165, 50 + _LINE * len(plan.memories) + 20 * (number // 4)
        lines += [draw_rectangle(x, y, 12, 12, STYLES[kind][0]), draw_label(x + 18, y + 11, kind)]
    return make_document(_LEFT + _BAR_WIDTH + 20, height, lines)


def forecast_line(plan: Plan) -> str:
    """Return the forecast of decode speed, and what limits it, on one line."""
    cast = plan.forecast
    full = f"{format_rate(cast.decode_full)} with a full context"
    return f"{format_rate(cast.decode)} tokens/s ({full}), limited by {cast.limit}"


def _render_bar(memory: MemoryPlan, top: int) -> list[str]:
    usage = f"{format_memory(memory.n_bytes)} of {format_memory(memory.total_bytes)}"
    lines = [
        draw_label(10, top + 12, memory_name(memory), within=_LEFT - 20),
        draw_label(10, top + 26, usage, size=11, color="#555", within=_LEFT - 20),
    ]
    x = _LEFT
    for run in bar_segments(memory, _BAR_WIDTH):
        title = f"{run.kind}: {format_memory(memory.of(run.kind))}" if run.kind in CLASSES else run.kind
        lines.append(draw_rectangle(x, top, run.cells, _BAR_HEIGHT, STYLES[run.kind][0], title))
        x += run.cells
    return lines


def _byte_shares(memory: MemoryPlan) -> list[tuple[str, int]]:
    taken = max(0, memory.total_bytes - memory.free_bytes)
    parts = [(kind, memory.of(kind)) for kind in CLASSES]
    return [(TAKEN, taken), *parts, (FREE, max(0, memory.free_bytes - memory.n_bytes))]
