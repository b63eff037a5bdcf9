"""What `qwenctl batch` prints at its end: summary or estimate, in lines or JSON, on the right stream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from qwenctl.batch import BatchEstimate, BatchStats, OutputSpec
from qwenctl.commands.batch.reporting import check_plot, show_estimate, show_summary
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.pictures import is_svg

ESTIMATE = BatchEstimate(1000, 0, 8, 20_000, 3000, 4, 125.0)
FILE, STREAM = OutputSpec("out.jsonl"), OutputSpec()


def stats(failed: int = 0) -> BatchStats:
    return BatchStats(total=10, answered=10 - failed, failed=failed)


def test_estimate_shows_tokens_and_time(capfd: pytest.CaptureFixture[str]) -> None:
    show_estimate(ESTIMATE, as_json=False)
    assert capfd.readouterr().out.splitlines() == [
        "records  1,000",
        "prompts  about 20,000 tokens, estimated from 8 records",
        "answers  about 3,000 tokens, estimated from 8 records",
        "time     about 2:05, with 4 records at once",
    ]


def test_estimate_shows_only_what_is_known(capfd: pytest.CaptureFixture[str]) -> None:
    show_estimate(BatchEstimate(5, 0), as_json=False)
    show_estimate(BatchEstimate(5, 0), as_json=True)
    show_estimate(replace(ESTIMATE, seconds=None), as_json=True)
    lines, nothing, without = capfd.readouterr().out.splitlines()
    assert (lines, json.loads(nothing)) == ("records  5", {"records": 5, "bad": 0})
    assert "seconds" not in json.loads(without)


def test_estimate_of_invalid_records_ends_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        show_estimate(BatchEstimate(5, 2), as_json=False)
    assert caught.value.exit_code == ExitCode.SOME_FAILED
    assert capfd.readouterr().out == "records  5, 2 are invalid\n"


@pytest.mark.parametrize(("output", "stream"), [(FILE, "out"), (STREAM, "err")])
def test_json_summary_does_not_mix_with_answers(
    output: OutputSpec, stream: str, capfd: pytest.CaptureFixture[str]
) -> None:
    show_summary(stats(), output, None, as_json=True, quiet=False)
    captured = capfd.readouterr()
    texts = {"out": captured.out, "err": captured.err}
    assert isinstance(json.loads(texts.pop(stream)), dict)
    assert list(texts.values()) == [""]


def test_summary_of_failures_names_the_file_that_lists_them(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        show_summary(stats(failed=2), FILE, None, as_json=False, quiet=False)
    assert caught.value.exit_code == ExitCode.SOME_FAILED
    assert "--retry-errors tries them again" in capfd.readouterr().err


def test_quiet_batch_prints_no_summary_and_still_fails(capfd: pytest.CaptureFixture[str]) -> None:
    show_summary(stats(), FILE, None, as_json=False, quiet=True)
    with pytest.raises(typer.Exit):
        show_summary(stats(failed=1), FILE, None, as_json=False, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_chart_is_drawn_as_svg_only(tmp_path: Path) -> None:
    check_plot(None)
    check_plot(tmp_path / "a.svg")
    with pytest.raises(QwenctlError, match="only SVG is supported"):
        check_plot(tmp_path / "a.png")
    show_summary(stats(), FILE, tmp_path / "a.svg", as_json=False, quiet=True)
    assert is_svg((tmp_path / "a.svg").read_text())
