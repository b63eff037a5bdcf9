"""The charts of a benchmark.

Results come in, charts go out; the file that they are written to is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.bench.cases import BenchResult
from qwenctl.charts.line_chart import Chart, Curve, Point

_KINDS = {"tg": "generation", "pp": "prompt processing"}


def depth_charts(model: str, results: Sequence[BenchResult]) -> list[Chart]:
    """Return the charts of tokens/s over context depth in tokens, of what was measured: generation, prompt processing.

    Each has a curve for each length. They are apart, because prompts are processed at many times the speed of answers.
    """
    curves: dict[str, list[Point]] = {}
    for result in sorted(results, key=lambda result: result.case.depth):
        name = result.case.name.partition(" @")[0]
        curves.setdefault(name, []).append(Point(result.case.depth, result.mean, result.deviation))
    charts = []
    for kind, meaning in _KINDS.items():
        of_kind = tuple(Curve(name, tuple(points)) for name, points in curves.items() if name.startswith(kind))
        if of_kind:
            charts.append(Chart(f"{model}: speed of {meaning}", "tokens in the context", "tokens/s", of_kind))
    return charts


def expert_chart(model: str, results: Sequence[tuple[int, BenchResult]]) -> Chart:
    """Return the chart of tokens/s over the number of layers with experts on GPUs."""
    points = tuple(
        Point(layers, result.mean, result.deviation) for layers, result in sorted(results, key=lambda pair: pair[0])
    )
    name = results[0][1].case.name if results else ""
    return Chart(
        f"{model}: speed over experts on GPUs", "layers with experts on GPUs", "tokens/s", (Curve(name, points),)
    )
