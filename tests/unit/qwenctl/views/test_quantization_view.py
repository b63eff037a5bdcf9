"""What `qwenctl quantize` shows without a terminal: progress lines, the table of a dry run, the files it made."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.convert import ConversionProgress, ConversionResult
from quantize.output.partial_output import DiskSpace
from quantize.plan import QuantizeOptions, make_plan
from quantize.summary import FileSummary, Summary, summarize, summarize_files
from qwenctl.views.quantization import conversion_progress, file_lines, print_summary, result_lines, start_line

MB = 10**6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the view sees, in seconds; a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def summary(toy: Path, tmp_path: Path) -> Summary:
    return summarize(make_plan(toy, tmp_path / "out.gguf", QuantizeOptions("Q8_0", vision=False)), 2)


def test_progress_lines_tell_share_rate_time_left_and_class(clock: list[float]) -> None:
    stream = io.StringIO()
    with conversion_progress("quantizing", stream, quiet=False) as report:
        report(ConversionProgress(0, 100 * MB, 0, "attention"))
        clock[0] += 10
        report(ConversionProgress(50 * MB, 100 * MB, 0, "attention"))
        report(ConversionProgress(60 * MB, 100 * MB, 0, "attention"))  # within the same second
    assert stream.getvalue().splitlines() == [
        "quantizing",
        " 50%  50.0 MB of 100 MB, 5.00 MB/s, 0:10 left, attention",
    ]


def test_resumed_bytes_are_told_and_do_not_count_for_the_rate(clock: list[float]) -> None:
    stream = io.StringIO()
    with conversion_progress("quantizing", stream, quiet=False) as report:
        report(ConversionProgress(40 * MB, 100 * MB, 40 * MB, "attention"))
        clock[0] += 10
        report(ConversionProgress(50 * MB, 100 * MB, 40 * MB, "attention"))
    first, second = stream.getvalue().splitlines()
    assert first == "quantizing, resuming at 40.0 MB"
    assert "1.00 MB/s, 0:50 left" in second


def test_quiet_conversion_shows_nothing() -> None:
    stream = io.StringIO()
    with conversion_progress("quantizing", stream, quiet=True) as report:
        report(ConversionProgress(0, 100, 0, "attention"))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (4, "4 threads")])
def test_start_line_names_what_is_made_of_what(threads: int, words: str, toy: Path, tmp_path: Path) -> None:
    plan = make_plan(toy, tmp_path / "out.gguf", QuantizeOptions("Q8_0"))
    line = start_line(plan, threads)
    assert line.startswith(f"quantizing {plan.checkpoint.name} to Q8_0: ")
    assert line.endswith(f" in 2 files, {words}")


def test_files_are_listed_with_size_and_bits_per_weight() -> None:
    files = (FileSummary(Path("a\x1b.gguf"), 4_500_000, 4.5), FileSummary(Path("mmproj.gguf"), 1_000_000, 16.0))
    assert file_lines(files)[1] == "mmproj.gguf: 1.00 MB, 16.00 bits per weight"
    assert "\x1b" not in file_lines(files)[0]


def test_result_tells_what_an_earlier_run_had_done() -> None:
    result = ConversionResult((Path("a.gguf"),), 5 * MB, 0, 75.0, 1.0, 2)
    assert result_lines((), result) == ["done in 1:15"]
    assert result_lines((), replace(result, resumed_bytes=2 * MB)) == [
        "done in 1:15, 2.00 MB of it from an earlier run"
    ]


def test_dry_run_shows_classes_files_disk_and_memory(summary: Summary, tmp_path: Path) -> None:
    stream = io.StringIO()
    print_summary(replace(summary, disk_space=DiskSpace(tmp_path, 5 * MB, 9 * MB)), stream)
    text = [line.rstrip() for line in stream.getvalue().splitlines()]
    total = next(line for line in text if line.startswith("total"))
    assert total.split()[1:3] == ["Q8_0", f"{len(summary.tensors):,}"]
    assert any(line.startswith(f"{tmp_path / 'out.gguf'}: ") for line in text)
    assert f"disk: 5.00 MB needed, 9.00 MB free in {tmp_path}" in text
    assert text[-1].endswith("with 2 threads")


def test_dry_run_tells_how_much_disk_is_missing(summary: Summary, tmp_path: Path) -> None:
    stream = io.StringIO()
    print_summary(replace(summary, disk_space=DiskSpace(tmp_path, 9 * MB, 5 * MB)), stream)
    assert f"9.00 MB needed, 5.00 MB free in {tmp_path}, 4.00 MB short" in stream.getvalue()


def test_name_of_a_class_stands_in_its_first_row_only(summary: Summary) -> None:
    stream = io.StringIO()
    print_summary(summary, stream)
    starts = [line.partition("  ")[0] for line in stream.getvalue().splitlines()]
    names = dict.fromkeys(row.tensor_class for row in summary.rows)
    assert [name for name in starts if name in names] == list(names)
    assert len(summary.rows) > len(names)


def test_summary_of_files_is_that_of_the_plan(summary: Summary, toy: Path, tmp_path: Path) -> None:
    plan = make_plan(toy, tmp_path / "out.gguf", QuantizeOptions("Q8_0", vision=False))
    assert summarize_files(plan) == summary.files
