"""A plan as a picture: a bar for each memory, colored by class.

A `MemoryPlan` comes in; runs of cells, or an SVG document, go out. How a terminal shows colors is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantize.formatting import format_memory, format_rate
from qwenctl.charts.svg import document, label, rectangle
from qwenctl.placement.plan import CLASSES, MemoryPlan, Plan
from qwenctl.protocol.placement import CPU

TAKEN, FREE = "taken", "free"
# Colors of equal lightness that people with color blindness can tell apart (after Okabe and Ito), and a letter each.
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
    """Cells of one class that stand beside each other."""

    kind: str
    cells: int


def bar(memory: MemoryPlan, width: int) -> tuple[BarSegment, ...]:
    """`width` cells for all bytes of a memory: its parts, what others have taken, what stays free."""
    runs, at, reached = [], 0, 0
    total = max(memory.total_bytes, memory.n_bytes, 1)
    for kind, n_bytes in _shares(memory):
        reached += n_bytes
        end = round(reached * width / total)
        if end > at:
            runs.append(BarSegment(kind, end - at))
        at = max(at, end)
    return tuple(runs)


def memory_name(memory: MemoryPlan) -> str:
    """What a person calls it."""
    return "RAM" if memory.name == CPU else memory.name


def table(plan: Plan) -> list[list[str]]:
    """A row for each class with its bytes in each memory, the sum and the layers below; the first row has the names."""
    rows = [["", *map(memory_name, plan.memories)]]
    for kind in CLASSES:
        sizes = [memory.of(kind) for memory in plan.memories]
        if any(sizes):
            rows.append([kind, *(format_memory(n_bytes) if n_bytes else "-" for n_bytes in sizes)])
    rows.append(["total", *(format_memory(memory.n_bytes) if memory.n_bytes else "-" for memory in plan.memories)])
    rows.append(["free before", *(format_memory(memory.free_bytes) for memory in plan.memories)])
    layers = [next((part.layers for part in memory.parts if part.layers), "-") for memory in plan.memories]
    return [*rows, ["expert layers", *layers]] if any(text != "-" for text in layers) else rows


def svg(plan: Plan) -> str:
    """The picture as an SVG document: the bars, and a legend of the classes in them."""
    kinds = [kind for kind in STYLES if any(kind == run.kind for one in plan.memories for run in bar(one, _BAR_WIDTH))]
    height = _LINE * (len(plan.memories) + 2) + 20 * -(-len(kinds) // 4)
    lines = [label(10, 24, f"{plan.model}: {speed(plan)}", size=15)]
    for number, memory in enumerate(plan.memories):
        lines += _svg_bar(memory, 40 + _LINE * number)
    for number, kind in enumerate(kinds):
        x, y = _LEFT + number % 4 * 165, 50 + _LINE * len(plan.memories) + 20 * (number // 4)
        lines += [rectangle(x, y, 12, 12, STYLES[kind][0]), label(x + 18, y + 11, kind)]
    return document(_LEFT + _BAR_WIDTH + 20, height, lines)


def speed(plan: Plan) -> str:
    """The forecast in one line."""
    cast = plan.forecast
    full = f"{format_rate(cast.decode_full)} with a full context"
    return f"{format_rate(cast.decode)} tokens/s ({full}), limited by {cast.limit}"


def _svg_bar(memory: MemoryPlan, top: int) -> list[str]:
    told = f"{format_memory(memory.n_bytes)} of {format_memory(memory.total_bytes)}"
    lines = [label(10, top + 12, memory_name(memory)), label(10, top + 26, told, size=11, color="#555")]
    x = _LEFT
    for run in bar(memory, _BAR_WIDTH):
        title = f"{run.kind}: {format_memory(memory.of(run.kind))}" if run.kind in CLASSES else run.kind
        lines.append(rectangle(x, top, run.cells, _BAR_HEIGHT, STYLES[run.kind][0], title))
        x += run.cells
    return lines


def _shares(memory: MemoryPlan) -> list[tuple[str, int]]:
    taken = max(0, memory.total_bytes - memory.free_bytes)
    parts = [(kind, memory.of(kind)) for kind in CLASSES]
    return [(TAKEN, taken), *parts, (FREE, max(0, memory.free_bytes - memory.n_bytes))]
