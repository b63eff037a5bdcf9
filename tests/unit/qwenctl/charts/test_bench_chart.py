"""The charts of a benchmark."""

from __future__ import annotations

from qwenctl.bench.cases import BenchCase, BenchResult
from qwenctl.charts.bench import depth_charts, expert_chart


def result(prompt: int, generate: int, depth: int, *seconds: float) -> BenchResult:
    return BenchResult(BenchCase(prompt, generate, depth), seconds)


def test_depth_chart_has_a_curve_for_each_answer_length_in_order_of_depth() -> None:
    results = [result(0, 10, 4096, 2.0), result(0, 10, 0, 1.0), result(0, 20, 0, 1.0, 4.0), result(512, 0, 0, 1.0)]
    chart, prompts = depth_charts("toy", results)
    assert [curve.name for curve in prompts.curves] == ["pp512"]
    assert [curve.name for curve in chart.curves] == ["tg10", "tg20"]
    assert [(point.x, point.y) for point in chart.curves[0].points] == [(0, 10.0), (4096, 5.0)]
    assert chart.curves[1].points[0].y == 12.5


def test_depth_charts_without_answers_show_prompts() -> None:
    assert [[curve.name for curve in one.curves] for one in depth_charts("toy", [result(512, 0, 0, 1.0)])] == [
        ["pp512"]
    ]


def test_expert_chart_is_in_order_of_layers() -> None:
    chart = expert_chart("toy", [(8, result(0, 10, 0, 1.0)), (0, result(0, 10, 0, 2.0))])
    [curve] = chart.curves
    assert [(point.x, point.y) for point in curve.points] == [(0, 5.0), (8, 10.0)]
