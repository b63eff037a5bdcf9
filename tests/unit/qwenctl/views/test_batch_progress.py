"""The progress of a batch: its line (count, throughput, time left), its summary, and its chart."""

from __future__ import annotations

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.runner import BatchStats
from qwenctl.charts.batch import render_batch
from qwenctl.views.batch import progress_line, summary_lines
from tests.support.pictures import is_svg


def test_progress_line_shows_count_throughput_and_time_left() -> None:
    figures = BatchStats(
        total=1000, known=100, answered=300, failed=2, work=BackendStats(9000, 0, 3000, 3.0, 10.0, 16, 16, 5)
    )
    figures.started -= 60
    line = progress_line(figures)
    assert line == "400 of 1,000 done, 2 failed · prompts 3,000/s, answers 300/s · 16 at once · 2:00 left"


def test_throughput_below_one_token_per_second_is_not_shown_as_zero() -> None:
    figures = BatchStats(total=10, answered=1, work=BackendStats(90, 0, 40, 25.0, 100.0, 2, 2, 5))
    assert "prompts 3.6/s, answers 0.4/s" in progress_line(figures)
    assert any("40 tokens, 0.4/s" in line for line in summary_lines(figures))


def test_batch_chart_with_little_or_no_data_is_valid_svg() -> None:
    for rates, seconds in (([], []), ([(0.0, 0, 0), (1.0, 10, 5)], [0.5]), ([(1.0, 0, 0)], [1.0, 2.0])):
        assert is_svg(render_batch("<a & b>", rates, seconds))
