"""What `qwenctl batch` shows: a progress line while it runs, and a table of statistics at the end.

`BatchStats` come in; text or JSON fields go out, or text goes to a stream. On a terminal the progress line is
overwritten, elsewhere a new line is written now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

from quantize.formatting import format_duration, format_rate
from qwenctl.batch.runner import BatchStats
from qwenctl.terminal.streams import LineSchedule, StatusLine, is_terminal

_SETTLED_SECONDS = 2.0  # no estimate from a shorter time


def batch_progress(stream: TextIO | None, *, quiet: bool) -> tuple[Callable[[BatchStats], None], Callable[[], None]]:
    """Return a function that shows the statistics so far on `stream`, and one that clears the line at the end."""
    if quiet or stream is None:
        return lambda _: None, lambda: None
    if is_terminal(stream):
        status = StatusLine(stream)
        return lambda stats: status.show(progress_line(stats)), status.clear
    return _line_reporter(stream), lambda: None


def _line_reporter(stream: TextIO) -> Callable[[BatchStats], None]:
    """Return a function that writes a line every 5 % and every 30 s, but at most one a second."""
    schedule = LineSchedule()

    def report(stats: BatchStats) -> None:
        share = stats.settled / stats.total if stats.total else 0.0
        if schedule.is_due(share):
            schedule.mark_written(share)
            stream.write(f"{progress_line(stats)}\n")
            stream.flush()

    return report


def progress_line(stats: BatchStats) -> str:
    """Return records done, speed and time left, on one line."""
    of = f" of {stats.total:,}" if stats.total is not None else ""
    failed = f", {stats.failed:,} failed" if stats.failed else ""
    parts = [f"{stats.settled - stats.failed:,}{of} done{failed}"]
    prompts, answers = token_rates(stats)
    if answers:
        parts.append(f"prompts {format_rate(prompts)}/s, answers {format_rate(answers)}/s")
    if stats.work.parallel:
        parts.append(f"{stats.work.active} at once")
    left = estimate_seconds_left(stats)
    if left is not None:
        parts.append(f"{format_duration(left)} left")
    return " · ".join(parts)


def token_rates(stats: BatchStats) -> tuple[float, float]:
    """Return tokens/s of prompts and of answers.

    Each is over the time that the engine spent on it, or over the whole time if that is unknown.
    """
    work, elapsed = stats.work, time.monotonic() - stats.started
    return (
        work.prompt_tokens / (work.prompt_s or elapsed or 1),
        work.answer_tokens / (work.answer_s or elapsed or 1),
    )


def estimate_seconds_left(stats: BatchStats) -> float | None:
    """Estimate the seconds left from the answers of this run; None if it is too early or the total is unknown."""
    elapsed = time.monotonic() - stats.started
    if stats.total is None or not stats.answered or elapsed < _SETTLED_SECONDS:
        return None
    return max(0, stats.total - stats.settled) * elapsed / stats.answered


def summary_fields(stats: BatchStats) -> dict[str, Any]:
    """Return the final statistics as fields for JSON."""
    prompts, answers = token_rates(stats)
    work, latencies = stats.work, sorted(stats.seconds)
    return {
        "records": stats.settled,
        "answered": stats.answered,
        "known_before": stats.known,
        "failed": stats.failed,
        "cut": stats.cut,
        "seconds": round(time.monotonic() - stats.started, 3),
        "prompt_tokens": work.prompt_tokens,
        "shared_tokens": work.shared_tokens,
        "answer_tokens": work.answer_tokens,
        "prompt_tokens_per_s": round(prompts, 1),
        "answer_tokens_per_s": round(answers, 1),
        "parallel": work.parallel,
        "latency_median_s": round(latencies[len(latencies) // 2], 3) if latencies else None,
        "latency_p99_s": round(latencies[len(latencies) * 99 // 100], 3) if latencies else None,
    }


def summary_lines(stats: BatchStats) -> list[str]:
    """Return the final statistics as the lines of a table."""
    fields = summary_fields(stats)
    known = f", {stats.known:,} done before" if stats.known else ""
    rows = [
        ("records", f"{fields['answered']:,} answered, {stats.failed:,} failed{known}"),
        ("time", f"{format_duration(fields['seconds'])}, {stats.work.parallel or 1} at once"),
        ("prompts", f"{stats.work.prompt_tokens:,} tokens, {format_rate(fields['prompt_tokens_per_s'])}/s"),
        ("answers", f"{stats.work.answer_tokens:,} tokens, {format_rate(fields['answer_tokens_per_s'])}/s"),
    ]
    if stats.work.shared_tokens:
        rows.append(("shared", f"{stats.work.shared_tokens:,} prompt tokens shared instead of evaluated again"))
    if stats.cut:
        rows.append(("cut", f"{stats.cut:,} answers ended at a limit (-n, -c) or in a loop: see finish_reason"))
    if stats.seconds:
        rows.append(("latency", f"median {fields['latency_median_s']:.1f} s, 99% {fields['latency_p99_s']:.1f} s"))
    return [f"{name:8} {value}" for name, value in rows]
