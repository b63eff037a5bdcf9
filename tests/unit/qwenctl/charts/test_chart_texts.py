"""The texts of every chart lie inside its picture, and its numbers are round."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qwenctl.charts.batch import render_batch
from qwenctl.charts.bench import depth_charts
from qwenctl.charts.line_chart import Chart, Curve, Point, axis_ticks, format_tick, render_charts
from qwenctl.charts.plan import render_plan
from qwenctl.charts.svg import draw_label, text_width
from tests.support.example_plan import EXAMPLE_PLAN

NAMES = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=300)


def extents(svg: str) -> Iterator[tuple[str, float, float, float]]:
    """Each horizontal text with its left and right end in pixels, and the picture's width."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own output
    groups = [(one, 0.0) for one in [root]]
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        shift = re.match(r"translate\((\d+)", group.get("transform", ""))
        groups.append((group, float(shift[1]) if shift else 0.0))
    for group, shift in groups:
        for text in group.findall("{http://www.w3.org/2000/svg}text"):
            if text.get("x") is None:
                continue
            width = text_width(text.text or "", float(text.get("font-size", "13")))
            start = {"start": 0.0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
            left = float(text.get("x", "0")) + shift - start
            yield text.text or "", left, left + width, float(root.get("width", "0"))


def assert_all_inside(svg: str) -> None:
    found = list(extents(svg))
    assert found
    for text, left, right, width in found:
        assert left >= 0, text
        assert right <= width, text


@examples(max_examples=50, deadline=None)
@given(
    NAMES,
    st.lists(st.tuples(st.integers(0, 1_010_000), st.floats(0, 1e7, allow_subnormal=False)), min_size=1, max_size=5),
    st.integers(1, 9),
)
def test_line_chart_cuts_nothing_off(title: str, spots: list[tuple[int, float]], curves: int) -> None:
    points = tuple(Point(x, y) for x, y in sorted(spots))
    chart = Chart(title, "tokens in the context", "tokens/s", tuple(Curve(f"tg{n}", points) for n in range(curves)))
    assert_all_inside(render_charts([chart, chart]))


@examples(max_examples=50, deadline=None)
@given(NAMES, st.lists(st.floats(0, 1e6, allow_subnormal=False), max_size=20))
def test_batch_and_plan_cut_nothing_off(name: str, seconds: list[float]) -> None:
    rates = [(second, n * 1000, n * 100) for n, second in enumerate(sorted(seconds))]
    assert_all_inside(render_batch(name, rates, seconds))
    memories = tuple(replace(memory, name=name) for memory in EXAMPLE_PLAN.memories)
    assert_all_inside(render_plan(replace(EXAMPLE_PLAN, model=name, memories=memories)))


@given(st.floats(1e-3, 1e8))
def test_ticks_are_round_when_shown(highest: float) -> None:
    for value in axis_ticks(highest):
        shown = format_tick(value).replace(",", "")
        assert len(shown.replace(".", "").strip("0")) <= 2, shown  # 1, 2 or 5, or a multiple such as 15
        assert float(shown) == pytest.approx(value)


def test_short_text_is_as_large_as_asked_for() -> None:
    assert 'font-size="13" fill="#222">tg128</text>' in draw_label(0, 0, "tg128", within=100)
    assert depth_charts("toy", []) == []


@given(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=300), st.floats(60, 800))
def test_long_text_is_smaller_or_without_its_middle(text: str, within: float) -> None:
    label = ElementTree.fromstring(draw_label(0, 0, text, within=within))  # noqa: S314 - our own output
    size, shown = float(label.get("font-size", "0")), label.text or ""
    assert 8 <= size <= 13
    assert text_width(shown, size) <= within + 1
    if shown != text:
        start, _, end = shown.partition("…")
        assert text.startswith(start)
        assert text.endswith(end)
        assert [one.text for one in label] == [text]
