"""The charts of a benchmark, and the file that they go into.

Results come in; a file with a picture goes out, whole or not at all. SVG is written here, PNG only where a library is
installed that makes it of SVG.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qwenctl.bench.cases import BenchResult
from qwenctl.charts.line_chart import Chart, Curve, Point, svg
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import atomic_write

_PNG_LIBRARY = "cairosvg"


def check_picture(path: Path) -> None:
    """Raise QwenctlError for a file name of a kind that cannot be written, or in a folder that is not there."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise QwenctlError(f"{path.name} is neither .svg nor .png", f"--plot {path.stem or 'speed'}.svg")
    if path.suffix.lower() == ".png" and find_spec(_PNG_LIBRARY) is None:
        hint = f"--plot {path.with_suffix('.svg')}, or `pip install {_PNG_LIBRARY}`"
        raise QwenctlError("drawing a PNG needs a library that is not installed", hint)
    if not path.absolute().parent.is_dir():
        raise QwenctlError(f"no such folder: {path.parent}", "create the folder first", ExitCode.CANNOT_CREATE)


def write_picture(path: Path, charts: Sequence[Chart]) -> None:
    """Write the charts to `path`, in the place of what is there. Raises OSError."""
    data = svg(charts).encode()
    if path.suffix.lower() == ".png":
        data = importlib.import_module(_PNG_LIBRARY).svg2png(bytestring=data, scale=2)
    with atomic_write(path, mode=0o644) as file:
        file.write(data)


def depth_chart(model: str, results: Sequence[BenchResult]) -> Chart:
    """Speed over the tokens that were there before: a curve for each prompt or answer length."""
    curves: dict[str, list[Point]] = {}
    for result in sorted(results, key=lambda one: one.case.depth):
        name = result.case.name.partition(" @")[0]
        curves.setdefault(name, []).append(Point(result.case.depth, result.mean, result.deviation))
    made = tuple(Curve(name, tuple(points)) for name, points in curves.items() if name.startswith("tg"))
    read = tuple(Curve(name, tuple(points)) for name, points in curves.items() if name.startswith("pp"))
    return Chart(f"{model}: speed over context length", "tokens in the context", "tokens/s", made or read)


def expert_chart(model: str, results: Sequence[tuple[int, BenchResult]]) -> Chart:
    """Speed over the number of layers whose experts lie on GPUs."""
    points = tuple(Point(layers, one.mean, one.deviation) for layers, one in sorted(results, key=lambda pair: pair[0]))
    name = results[0][1].case.name if results else ""
    return Chart(
        f"{model}: speed over experts on GPUs", "layers with experts on GPUs", "tokens/s", (Curve(name, points),)
    )
