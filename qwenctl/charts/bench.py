"""The charts of a benchmark, and their image file.

Results come in, charts go out; charts come in, a file is written atomically. SVG needs no library; PNG needs cairosvg.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qwenctl.bench.cases import BenchResult
from qwenctl.charts.line_chart import Chart, Curve, Point, render_charts
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import atomic_write

_PNG_LIBRARY = "cairosvg"


def check_plot_path(path: Path) -> None:
    """Raise QwenctlError if `path` is neither .svg nor .png, PNG is not available, or the folder does not exist."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise QwenctlError(f"{path.name} is neither .svg nor .png", f"--plot {path.stem or 'speed'}.svg")
    if path.suffix.lower() == ".png" and find_spec(_PNG_LIBRARY) is None:
        hint = f"--plot {path.with_suffix('.svg')}, or `pip install {_PNG_LIBRARY}`"
        raise QwenctlError("drawing a PNG needs a library that is not installed", hint)
    if not path.absolute().parent.is_dir():
        raise QwenctlError(f"no such folder: {path.parent}", "create the folder first", ExitCode.CANNOT_CREATE)


def write_plot(path: Path, charts: Sequence[Chart]) -> None:
    """Write the charts to `path`, replacing an existing file. Raises OSError if that fails."""
    data = render_charts(charts).encode()
    if path.suffix.lower() == ".png":
        data = importlib.import_module(_PNG_LIBRARY).svg2png(bytestring=data, scale=2)
    with atomic_write(path, mode=0o644) as file:
        file.write(data)


def depth_chart(model: str, results: Sequence[BenchResult]) -> Chart:
    """Return the chart of tokens/s over context depth in tokens: a curve for each answer length, else prompt length."""
    curves: dict[str, list[Point]] = {}
    for result in sorted(results, key=lambda result: result.case.depth):
        name = result.case.name.partition(" @")[0]
        curves.setdefault(name, []).append(Point(result.case.depth, result.mean, result.deviation))
    generation = tuple(Curve(name, tuple(points)) for name, points in curves.items() if name.startswith("tg"))
    prompts = tuple(Curve(name, tuple(points)) for name, points in curves.items() if name.startswith("pp"))
    return Chart(f"{model}: speed over context length", "tokens in the context", "tokens/s", generation or prompts)


def expert_chart(model: str, results: Sequence[tuple[int, BenchResult]]) -> Chart:
    """Return the chart of tokens/s over the number of layers with experts on GPUs."""
    points = tuple(
        Point(layers, result.mean, result.deviation) for layers, result in sorted(results, key=lambda pair: pair[0])
    )
    name = results[0][1].case.name if results else ""
    return Chart(
        f"{model}: speed over experts on GPUs", "layers with experts on GPUs", "tokens/s", (Curve(name, points),)
    )
