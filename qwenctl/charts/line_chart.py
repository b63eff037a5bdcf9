"""Line charts, side by side in one SVG.

Curves come in, the text of an SVG goes out. What the curves mean is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwenctl.charts.svg import draw_label, draw_line, make_document

_WIDTH, _HEIGHT = 520, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 40, 60, 52  # of the axes; a number at their end needs half its width
_COLORS = ("#1f5fbf", "#c0532b", "#3b8a3e", "#7d4ba3")
_TICKS = 5
_NAMES_PER_ROW, _NAME_WIDTH = 5, 80


@dataclass(frozen=True)
class Point:
    """A measured point; the error bar reaches from `y` - `error` to `y` + `error`."""

    x: float
    y: float
    error: float = 0.0


@dataclass(frozen=True)
class Curve:
    """Named points, sorted by x."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """Curves over common axes, which start at 0."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


def render_charts(charts: Sequence[Chart]) -> str:
    """Return the charts, side by side, as the text of an SVG."""
    width = _WIDTH * len(charts)
    parts: list[str] = []
    for number, chart in enumerate(charts):
        parts.append(f'<g transform="translate({number * _WIDTH} 0)">')
        parts += _render_chart(chart)
        parts.append("</g>")
    return make_document(width, _HEIGHT, parts)


def axis_ticks(highest: float, min_step: float = 0.0) -> list[float]:
    """Return round numbers (steps of 1, 2 or 5 times a power of 10) from 0 to at least `highest`.

    Steps are at least `min_step`.
    """
    if not highest > 1e-9:
        return [0.0, 1.0]
    rough = highest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(min_step, next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9)))
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def format_tick(value: float) -> str:
    """Return a number without the noise of its binary fraction, and never as a power of ten."""
    return f"{round(value, 9):,.10g}" if value < 1e9 else f"{value:.2g}"


def _render_chart(chart: Chart) -> Iterator[str]:
    points = [point for curve in chart.curves for point in curve.points]
    across = axis_ticks(max((point.x for point in points), default=0), min_step=1)  # x is a count: tokens, layers
    up = axis_ticks(max((point.y + point.error for point in points), default=0))

    def place(x: float, y: float) -> tuple[float, float]:
        inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + x / across[-1] * inner_width, _HEIGHT - _BOTTOM - y / up[-1] * inner_height

    yield draw_label(_WIDTH / 2, 22, chart.title, anchor="middle", size=14, within=_WIDTH - 20)
    yield draw_label(_WIDTH / 2, _HEIGHT - 14, chart.x_label, anchor="middle")
    yield draw_label(16, _HEIGHT / 2, chart.y_label, anchor="middle", turned=True)
    for value in up:
        (x, y), (end, _) = place(0, value), place(across[-1], value)
        yield draw_line([(x, y), (end, y)], "#ddd")
        yield draw_label(x - 6, y + 4, format_tick(value), anchor="end", within=_LEFT - 30)
    for value in across:
        x, y = place(value, 0)
        yield draw_label(x, y + 18, format_tick(value), anchor="middle", within=2 * _RIGHT)
    for number, curve in enumerate(chart.curves):
        color = _COLORS[number % len(_COLORS)]
        # Names stand above the axes in rows of five, where no curve can cover them.
        column, row = number % _NAMES_PER_ROW, number // _NAMES_PER_ROW
        place_x = _WIDTH - _RIGHT - column * _NAME_WIDTH
        yield draw_label(place_x, _TOP - 8 - 12 * row, curve.name, anchor="end", color=color, within=_NAME_WIDTH - 8)
        spots = [place(point.x, point.y) for point in curve.points]
        yield draw_line(spots, color, 2)
        for point, (x, y) in zip(curve.points, spots, strict=True):
            low, high = place(point.x, max(0.0, point.y - point.error))[1], place(point.x, point.y + point.error)[1]
            yield draw_line([(x, low), (x, high)], color)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
