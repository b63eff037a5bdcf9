"""What a batch shows: one line while it runs, on a terminal written over, else now and then; a table at its end.

Figures come in, text goes to the stream that is given. Nothing is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

from quantize.formatting import format_duration, format_rate
from qwenctl.batch.runner import BatchStats
from qwenctl.terminal.streams import LineSchedule, StatusLine, is_terminal

_SETTLED_SECONDS = 2.0  # before that a rate says nothing


def batch_progress(stream: TextIO | None, *, quiet: bool) -> tuple[Callable[[BatchStats], None], Callable[[], None]]:
    """Who is told the figures again and again, and what clears the line at the end."""
    if quiet or stream is None:
        return lambda _: None, lambda: None
    if is_terminal(stream):
        status = StatusLine(stream)
        return lambda figures: status.show(progress_line(figures)), status.clear
    return _lines(stream), lambda: None


def _lines(stream: TextIO) -> Callable[[BatchStats], None]:
    """A line now and then."""
    schedule = LineSchedule()

    def report(figures: BatchStats) -> None:
        share = figures.settled / figures.total if figures.total else 0.0
        if schedule.is_due(share):
            schedule.mark_written(share)
            stream.write(f"{progress_line(figures)}\n")
            stream.flush()

    return report


def progress_line(figures: BatchStats) -> str:
    """How far it is, how fast, and how long it will take yet."""
    of = f" of {figures.total:,}" if figures.total is not None else ""
    failed = f", {figures.failed:,} failed" if figures.failed else ""
    parts = [f"{figures.settled - figures.failed:,}{of} done{failed}"]
    prompts, answers = speeds(figures)
    if answers:
        parts.append(f"prompts {format_rate(prompts)}/s, answers {format_rate(answers)}/s")
    if figures.work.parallel:
        parts.append(f"{figures.work.active} at once")
    left = seconds_left(figures)
    if left is not None:
        parts.append(f"{format_duration(left)} left")
    return " · ".join(parts)


def speeds(figures: BatchStats) -> tuple[float, float]:
    """Tokens/s of prompts and of answers, each over the time that it took, or over all where that is not known."""
    work, elapsed = figures.work, time.monotonic() - figures.started
    return (
        work.prompt_tokens / (work.prompt_s or elapsed or 1),
        work.answer_tokens / (work.answer_s or elapsed or 1),
    )


def seconds_left(figures: BatchStats) -> float | None:
    """By the answers of this run; None before it can be told."""
    elapsed = time.monotonic() - figures.started
    if figures.total is None or not figures.answered or elapsed < _SETTLED_SECONDS:
        return None
    return max(0, figures.total - figures.settled) * elapsed / figures.answered


def summary_fields(figures: BatchStats) -> dict[str, Any]:
    """The final figures as data."""
    prompts, answers = speeds(figures)
    work, latencies = figures.work, sorted(figures.seconds)
    return {
        "records": figures.settled,
        "answered": figures.answered,
        "known_before": figures.known,
        "failed": figures.failed,
        "cut": figures.cut,
        "seconds": round(time.monotonic() - figures.started, 3),
        "prompt_tokens": work.prompt_tokens,
        "shared_tokens": work.shared_tokens,
        "answer_tokens": work.answer_tokens,
        "prompt_tokens_per_s": round(prompts, 1),
        "answer_tokens_per_s": round(answers, 1),
        "parallel": work.parallel,
        "latency_median_s": round(latencies[len(latencies) // 2], 3) if latencies else None,
        "latency_p99_s": round(latencies[len(latencies) * 99 // 100], 3) if latencies else None,
    }


def summary_lines(figures: BatchStats) -> list[str]:
    """The final figures as a table."""
    fields = summary_fields(figures)
    known = f", {figures.known:,} done before" if figures.known else ""
    rows = [
        ("records", f"{fields['answered']:,} answered, {figures.failed:,} failed{known}"),
        ("time", f"{format_duration(fields['seconds'])}, {figures.work.parallel or 1} at once"),
        ("prompts", f"{figures.work.prompt_tokens:,} tokens, {format_rate(fields['prompt_tokens_per_s'])}/s"),
        ("answers", f"{figures.work.answer_tokens:,} tokens, {format_rate(fields['answer_tokens_per_s'])}/s"),
    ]
    if figures.work.shared_tokens:
        rows.append(("shared", f"{figures.work.shared_tokens:,} prompt tokens shared instead of evaluated again"))
    if figures.cut:
        rows.append(("cut", f"{figures.cut:,} answers ended at a limit (-n, -c) or in a loop: see finish_reason"))
    if figures.seconds:
        rows.append(("latency", f"median {fields['latency_median_s']:.1f} s, 99% {fields['latency_p99_s']:.1f} s"))
    return [f"{name:8} {value}" for name, value in rows]
