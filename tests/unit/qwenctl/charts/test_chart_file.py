"""The files of charts: what they replace, and what they refuse to."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from qwenctl.charts.batch import render_batch
from qwenctl.charts.chart_file import check_chart_place, check_image_name, mark_png, write_chart
from qwenctl.charts.line_chart import Chart, render_charts
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.paths import ROOT
from tests.support.pictures import is_svg

CHART = render_charts([Chart("toy", "tokens", "tokens/s", ())])
OTHERS = render_batch("toy", [], [])


def make_png() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG")
    return stream.getvalue()


def test_chart_replaces_charts_of_this_program_only(tmp_path: Path) -> None:
    path = tmp_path / "speed.svg"
    old = CHART.replace("<!-- drawn by qwenctl -->\n", "")  # as the first versions wrote it
    assert old != CHART
    for earlier in (old, CHART, OTHERS):
        path.write_text(earlier)
        write_chart(path, CHART.encode())
        assert is_svg(path.read_text())
        assert [one.name for one in tmp_path.iterdir()] == ["speed.svg"]


@examples(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200)
    | st.sampled_from([b"<svg/>", b'<svg xmlns="http://www.w3.org/2000/svg" width="5">', make_png()])
)
def test_file_of_the_user_is_never_replaced(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("here") / "notes.svg"
    path.write_bytes(content)
    for act in (lambda: check_chart_place(path), lambda: write_chart(path, CHART.encode())):
        with pytest.raises(QwenctlError, match="already exists, and is no chart of qwenctl") as caught:
            act()
        assert caught.value.code == ExitCode.CANNOT_CREATE
    assert path.read_bytes() == content


def test_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "chart.svg").write_text(CHART)
    (tmp_path / "link.svg").symlink_to("chart.svg")
    (tmp_path / "dangling.svg").symlink_to("none.svg")
    (tmp_path / "folder.svg").mkdir()
    for name in ("link.svg", "dangling.svg", "folder.svg"):
        with pytest.raises(QwenctlError, match="already exists"):
            write_chart(tmp_path / name, CHART.encode())


def test_chart_goes_to_a_device(tmp_path: Path) -> None:
    write_chart(Path(os.devnull), CHART.encode())
    check_chart_place(tmp_path / "new.svg")


def test_marked_png_is_a_png_that_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "speed.png"
    path.write_bytes(mark_png(make_png()))
    with Image.open(path) as image:
        assert image.info["Software"] == "qwenctl"
    check_chart_place(path)


@pytest.mark.parametrize(("name", "hint"), [("speed.pdf", "--plot speed.svg"), ("speed", "--plot speed.svg")])
def test_picture_of_another_kind_is_refused_with_a_name_that_works(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(QwenctlError, match=r"neither \.svg nor \.png") as caught:
        check_image_name(tmp_path / name)
    assert caught.value.hint == hint


def test_picture_in_a_missing_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    check_image_name(tmp_path / "SPEED.SVG")
    with pytest.raises(QwenctlError, match="no such folder") as caught:
        check_chart_place(tmp_path / "missing" / "speed.svg")
    assert caught.value.code == ExitCode.CANNOT_CREATE


@pytest.mark.skipif(find_spec("cairosvg") is not None, reason="the library for PNG is installed")
def test_png_without_its_library_is_refused_with_the_svg_that_works(tmp_path: Path) -> None:
    with pytest.raises(QwenctlError, match="not installed") as caught:
        check_image_name(tmp_path / "speed.png")
    assert caught.value.hint.startswith(f"--plot {tmp_path / 'speed.svg'}")


def test_png_whose_library_cannot_be_loaded_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cairosvg.py").write_text("raise OSError('no library called cairo-2 was found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cairosvg", raising=False)
    with pytest.raises(QwenctlError, match="needs cairo, which cannot be loaded") as caught:
        check_image_name(tmp_path / "speed.png")
    assert caught.value.hint.startswith(f"--plot {tmp_path / 'speed.svg'}, or install cairo")


def test_png_is_a_declared_extra() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["png"]
    assert [text.partition(">")[0] for text in declared] == ["cairosvg"]
