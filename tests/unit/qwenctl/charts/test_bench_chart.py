"""The charts of a benchmark, and the files that they may go into."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from qwenctl.bench.cases import BenchCase, BenchResult
from qwenctl.charts.bench import check_plot_path, depth_chart, expert_chart, write_plot
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.pictures import is_svg


def result(prompt: int, generate: int, depth: int, *seconds: float) -> BenchResult:
    return BenchResult(BenchCase(prompt, generate, depth), seconds)


def test_depth_chart_has_a_curve_for_each_answer_length_in_order_of_depth() -> None:
    results = [result(0, 10, 4096, 2.0), result(0, 10, 0, 1.0), result(0, 20, 0, 1.0, 4.0), result(512, 0, 0, 1.0)]
    chart = depth_chart("toy", results)
    assert [curve.name for curve in chart.curves] == ["tg10", "tg20"]
    assert [(point.x, point.y) for point in chart.curves[0].points] == [(0, 10.0), (4096, 5.0)]
    assert chart.curves[1].points[0].y == 12.5


def test_depth_chart_without_answers_shows_prompts() -> None:
    assert [curve.name for curve in depth_chart("toy", [result(512, 0, 0, 1.0)]).curves] == ["pp512"]


def test_expert_chart_is_in_order_of_layers() -> None:
    chart = expert_chart("toy", [(8, result(0, 10, 0, 1.0)), (0, result(0, 10, 0, 2.0))])
    [curve] = chart.curves
    assert [(point.x, point.y) for point in curve.points] == [(0, 5.0), (8, 10.0)]


def test_picture_is_written_whole_in_the_place_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "speed.svg"
    path.write_text("old")
    write_plot(path, [depth_chart("toy", [result(0, 10, 0, 1.0), result(0, 10, 100, 2.0)])])
    assert is_svg(path.read_text())
    assert [one.name for one in tmp_path.iterdir()] == ["speed.svg"]


@pytest.mark.parametrize(("name", "hint"), [("speed.pdf", "--plot speed.svg"), ("speed", "--plot speed.svg")])
def test_picture_of_another_kind_is_refused_with_a_name_that_works(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(QwenctlError, match=r"is neither \.svg nor \.png") as caught:
        check_plot_path(tmp_path / name)
    assert caught.value.hint == hint


def test_picture_in_a_missing_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    check_plot_path(tmp_path / "SPEED.SVG")
    with pytest.raises(QwenctlError, match="no such folder") as caught:
        check_plot_path(tmp_path / "missing" / "speed.svg")
    assert caught.value.code == ExitCode.CANNOT_CREATE


@pytest.mark.skipif(find_spec("cairosvg") is not None, reason="the library for PNG is installed")
def test_png_without_its_library_is_refused_with_the_svg_that_works(tmp_path: Path) -> None:
    with pytest.raises(QwenctlError, match="not installed") as caught:
        check_plot_path(tmp_path / "speed.png")
    assert caught.value.hint.startswith(f"--plot {tmp_path / 'speed.svg'}")
