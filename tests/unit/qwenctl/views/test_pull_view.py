"""What a pull shows where there is no terminal: lines at each step of the way, and what went wrong."""

from __future__ import annotations

import io
import time

import pytest

from quantize.convert import ConversionProgress
from qwenctl.errors import QwenctlError
from qwenctl.hub.download.downloader import FileProgress, Progress
from qwenctl.views.pull import Rate, pull_progress

MB = 10**6


def fetched(done: int, total: int = 100 * MB, note: str = "", *, files: int = 1) -> Progress:
    return Progress((FileProgress("a.gguf", total, done),) * files, done, total, 0, note)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the views see, in seconds; a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_lines_come_at_each_twentieth_and_tell_rate_and_time_left(clock: list[float]) -> None:
    stream = io.StringIO()
    with pull_progress(stream, quiet=False) as (events, _):
        events.report(fetched(0))
        clock[0] += 2
        events.report(fetched(10 * MB))
        clock[0] += 0.5
        events.report(fetched(20 * MB))  # less than a second after the last
        clock[0] += 2
        events.report(fetched(21 * MB))
    first, second = stream.getvalue().splitlines()
    assert first == " 10%  10.0 MB of 100 MB, 5.00 MB/s, 0:18 left"
    assert second.startswith(" 21%  21.0 MB of 100 MB, ")


def test_reason_of_a_stall_is_shown_at_once_and_only_once(clock: list[float]) -> None:
    stream = io.StringIO()
    with pull_progress(stream, quiet=False) as (events, _):
        events.report(fetched(0))
        events.report(fetched(0, note="no route"))
        events.report(fetched(0, note="no route"))
    assert stream.getvalue() == "  0%  0 B of 100 MB, waiting: no route\n"


def test_end_is_always_shown(clock: list[float]) -> None:
    stream = io.StringIO()
    with pull_progress(stream, quiet=False) as (events, _):
        events.report(fetched(0))
        events.report(fetched(100 * MB, files=0))
    assert stream.getvalue().splitlines()[-1] == "100%  100 MB of 100 MB, done"


def test_fetch_and_conversion_share_a_line_and_the_share_is_that_of_the_conversion(clock: list[float]) -> None:
    stream = io.StringIO()
    with pull_progress(stream, quiet=False) as (_, report):
        report(fetched(50 * MB, files=0), ConversionProgress(10 * MB, 40 * MB, 0, ""))
    line = stream.getvalue()
    assert line == " 25%  fetched 50.0 MB of 100 MB, waiting for disk space; quantized 10.0 MB of 40.0 MB, waiting\n"


def test_warning_and_message_are_lines_without_escapes() -> None:
    stream = io.StringIO()
    with pull_progress(stream, quiet=False) as (events, _):
        events.notify("resuming")
        events.warn(QwenctlError("wrong \x1b[31mhash", "try again"))
    assert stream.getvalue().splitlines()[0] == "resuming"
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("hash\n  hint: try again\n")


def test_quiet_pull_shows_only_warnings(clock: list[float]) -> None:
    stream = io.StringIO()
    with pull_progress(stream, quiet=True) as (events, report):
        events.report(fetched(0))
        report(fetched(100 * MB, files=0), None)
        events.notify("resuming")
        events.warn(QwenctlError("wrong hash"))
    assert stream.getvalue() == "qwenctl: warning: wrong hash\n"


def test_rate_follows_what_is_recent(clock: list[float]) -> None:
    rate = Rate()
    assert rate.describe(0, 100 * MB) == "waiting"
    for _ in range(100):
        clock[0] += 1
        rate.describe(0, 100 * MB)
    assert rate.describe(0, 100 * MB) == "waiting"
    clock[0] += 1
    assert rate.describe(10 * MB, 100 * MB) == "10.0 MB/s, 0:09 left"
    for _ in range(60):
        clock[0] += 1
        text = rate.describe(10 * MB, 100 * MB)
    assert "kB/s" in text
