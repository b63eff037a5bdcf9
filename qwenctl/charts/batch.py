"""The chart of a batch: throughput over time and a histogram of latencies, as one SVG.

Measurements come in, the text of an SVG goes out. The file is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from qwenctl.charts.line_chart import axis_ticks, format_tick
from qwenctl.charts.svg import draw_label, draw_line, draw_rectangle, make_document

_WIDTH, _HEIGHT, _LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 860, 620, 90, 50, 740, 200
_SECOND_TOP = 370
_BARS, _POINTS = 40, 200
_COLORS = {"prompts": "#4477aa", "answers": "#cc6677"}  # distinguishable with color blindness too


def render_batch(title: str, rates: Sequence[tuple[float, int, int]], seconds: Sequence[float]) -> str:
    """Return the chart as the text of an SVG.

    `rates` are (seconds since the start, prompt tokens so far, answer tokens so far); `seconds` are the latencies.
    """
    parts = [
        draw_label(_LEFT, 25, title, size=16, within=_PLOT_WIDTH),
        *_render_throughput(rates),
        *_render_latencies(seconds),
    ]
    return make_document(_WIDTH, _HEIGHT, parts)


def _render_throughput(rates: Sequence[tuple[float, int, int]]) -> list[str]:
    """Draw tokens/s over time, a line each for prompts and answers."""
    points = _token_rates(rates)
    highest = axis_ticks(max((max(prompt, answer) for _, prompt, answer in points), default=0.0))[-1]
    longest = axis_ticks(points[-1][0] if points else 1.0)[-1]
    parts = [*_render_axes(_TOP, "tokens/s", highest, "seconds", longest)]
    for column, (name, color) in enumerate(_COLORS.items(), 1):
        places = [
            (_LEFT + _PLOT_WIDTH * point[0] / longest, _TOP + _PLOT_HEIGHT * (1 - point[column] / highest))
            for point in points
        ]
        parts.append(draw_line(places, color, 2))
        parts.append(draw_label(_LEFT + _PLOT_WIDTH - 150 + 80 * (column - 1), _TOP - 8, name, color=color))
    return parts


def _token_rates(rates: Sequence[tuple[float, int, int]]) -> list[tuple[float, float, float]]:
    """Return (seconds, prompt tokens/s, answer tokens/s) at about `_POINTS` of the measured times."""
    step = max(1, len(rates) // _POINTS)
    chosen = [*rates[::step], *rates[-1:]]
    return [
        (end, (prompt - prompt_before) / (end - begin), (answer - answer_before) / (end - begin))
        for (begin, prompt_before, answer_before), (end, prompt, answer) in pairwise(chosen)
        if end > begin
    ]


def _render_latencies(seconds: Sequence[float]) -> list[str]:
    """Draw a histogram of the records' latencies."""
    longest = axis_ticks(max(seconds, default=0.0))[-1]
    counts = [0] * _BARS
    for value in seconds:
        counts[min(_BARS - 1, int(_BARS * value / longest))] += 1
    highest = axis_ticks(max(counts), min_step=1)[-1]
    width = _PLOT_WIDTH / _BARS
    parts = [*_render_axes(_SECOND_TOP, "records", highest, "seconds from submission to answer", longest)]
    for number, count in enumerate(counts):
        height = _PLOT_HEIGHT * count / highest
        x, y = _LEFT + number * width + 1, _SECOND_TOP + _PLOT_HEIGHT - height
        parts.append(draw_rectangle(x, y, width - 2, height, _COLORS["prompts"]))
    return parts


def _render_axes(top: int, upward: str, highest: float, rightward: str, longest: float) -> list[str]:
    bottom, right = top + _PLOT_HEIGHT, _LEFT + _PLOT_WIDTH
    parts = [draw_line([(_LEFT, top), (_LEFT, bottom), (right, bottom)], "#444"), draw_label(_LEFT, top - 8, upward)]
    for value in axis_ticks(highest, min_step=float(upward == "records")):
        y = bottom - _PLOT_HEIGHT * value / highest
        parts.append(draw_label(_LEFT - 8, y + 4, format_tick(value), anchor="end", within=_LEFT - 20))
    for value in axis_ticks(longest):
        x = _LEFT + _PLOT_WIDTH * value / longest
        parts.append(draw_label(x, bottom + 18, format_tick(value), anchor="middle", within=60))
    parts.append(draw_label(_LEFT + _PLOT_WIDTH / 2, bottom + 38, rightward, anchor="middle"))
    return parts
