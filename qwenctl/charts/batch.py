"""A batch as a picture: tokens a second over time, and how long records took, as one SVG file.

Figures come in, the text of an SVG goes out: lines, bars and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from qwenctl.charts.svg import document, label, line, rectangle

_WIDTH, _HEIGHT, _LEFT, _TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 860, 620, 90, 50, 740, 200
_SECOND_TOP = 370
_BARS, _POINTS = 40, 200
_COLORS = {"prompts": "#4477aa", "answers": "#cc6677"}  # told apart by those who do not see red or green too


def draw(title: str, rates: Sequence[tuple[float, int, int]], seconds: Sequence[float]) -> str:
    """The picture. `rates`: seconds since the start, tokens of prompts and of answers so far; `seconds` of records."""
    parts = [label(_LEFT, 25, title, size=16), *_throughput(rates), *_latencies(seconds)]
    return document(_WIDTH, _HEIGHT, parts)


def _throughput(rates: Sequence[tuple[float, int, int]]) -> list[str]:
    """Tokens/s over time."""
    points = _speeds(rates)
    highest = max((max(prompt, answer) for _, prompt, answer in points), default=0.0) or 1.0
    longest = points[-1][0] if points else 1.0
    parts = [*_axes(_TOP, "tokens/s", highest, "seconds", longest)]
    for column, (name, color) in enumerate(_COLORS.items(), 1):
        places = [
            (_LEFT + _PLOT_WIDTH * point[0] / longest, _TOP + _PLOT_HEIGHT * (1 - point[column] / highest))
            for point in points
        ]
        parts.append(line(places, color, 2))
        parts.append(label(_LEFT + _PLOT_WIDTH - 150 + 80 * (column - 1), _TOP - 8, name, color=color))
    return parts


def _speeds(rates: Sequence[tuple[float, int, int]]) -> list[tuple[float, float, float]]:
    """Tokens/s between points that are far enough from each other to be seen."""
    step = max(1, len(rates) // _POINTS)
    chosen = [*rates[::step], *rates[-1:]]
    return [
        (end, (prompt - prompt_before) / (end - begin), (answer - answer_before) / (end - begin))
        for (begin, prompt_before, answer_before), (end, prompt, answer) in pairwise(chosen)
        if end > begin
    ]


def _latencies(seconds: Sequence[float]) -> list[str]:
    """How many records took how long."""
    longest = max(seconds, default=0.0) or 1.0
    counts = [0] * _BARS
    for value in seconds:
        counts[min(_BARS - 1, int(_BARS * value / longest))] += 1
    highest = max(counts) or 1
    width = _PLOT_WIDTH / _BARS
    parts = [*_axes(_SECOND_TOP, "records", highest, "seconds from submission to answer", longest)]
    for number, count in enumerate(counts):
        height = _PLOT_HEIGHT * count / highest
        x, y = _LEFT + number * width + 1, _SECOND_TOP + _PLOT_HEIGHT - height
        parts.append(rectangle(x, y, width - 2, height, _COLORS["prompts"]))
    return parts


def _axes(top: int, upward: str, highest: float, rightward: str, longest: float) -> list[str]:
    bottom, right = top + _PLOT_HEIGHT, _LEFT + _PLOT_WIDTH
    parts = [line([(_LEFT, top), (_LEFT, bottom), (right, bottom)], "#444"), label(_LEFT, top - 8, upward)]
    for share in (0.0, 0.5, 1.0):
        y, x = bottom - share * _PLOT_HEIGHT, _LEFT + share * _PLOT_WIDTH
        parts.append(label(_LEFT - 8, y + 4, _short(share * highest), anchor="end"))
        parts.append(label(x, bottom + 18, _short(share * longest), anchor="middle"))
    parts.append(label(_LEFT + _PLOT_WIDTH / 2, bottom + 38, rightward, anchor="middle"))
    return parts


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
