"""The output of `qwenctl batch`: progress of loading and answering, the summary, its chart, or an estimate.

Statistics and estimates of `qwenctl.batch` come in; text goes to the standard streams.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from quantize.formatting import format_duration
from qwenctl.batch import BatchEstimate, BatchStats, OutputSpec
from qwenctl.batch.output.writers import sidecar_path
from qwenctl.errors import ExitCode, QwenctlError, quote
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.terminal.streams import StatusLine, text_writer
from qwenctl.views.batch import batch_progress, summary_fields, summary_lines
from qwenctl.views.loading import follow_loading


def check_plot(plot: Path | None) -> None:
    """Raises QwenctlError if `--plot` names a file that is not SVG, or one that exists and is no chart."""
    if plot is not None and plot.suffix != ".svg":
        raise QwenctlError(f"--plot {plot}: only SVG is supported", f"--plot {quote(plot.with_suffix('.svg'))}")
    if plot is not None:
        from qwenctl.charts.chart_file import check_chart_place

        check_chart_place(plot)


def show_loading(events: Iterator[LoadProgress | ModelInfo]) -> ModelInfo:
    """Show on a terminal how far loading the model is."""
    return follow_loading(events, StatusLine(sys.stderr))


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[BatchStats], None]]:
    """Inside, the yielded function shows statistics on standard error; a terminal is cleared afterwards."""
    report, clear = batch_progress(sys.stderr, quiet=quiet)
    try:
        yield report
    finally:
        clear()


def show_summary(stats: BatchStats, output: OutputSpec, plot: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Print the summary, and draw the chart. Raises typer.Exit if records have failed."""
    if plot is not None:
        from qwenctl.charts.batch import render_batch
        from qwenctl.charts.chart_file import write_chart

        chart = render_batch(f"qwenctl batch, {stats.answered:,} records", stats.rates, stats.seconds)
        write_chart(plot, chart.encode())
    if as_json:
        stream = sys.stderr if output.is_standard_output else sys.stdout
        text_writer(stream)(json.dumps(summary_fields(stats)) + "\n")
    elif not quiet and sys.stderr is not None:
        lines = summary_lines(stats)
        if stats.first_failure:
            lines.append(f"failed   {stats.first_failure}")
        if stats.failed and not output.is_standard_output:
            lines.append(f"failed   {sidecar_path(Path(output.path), 'errors')}; --retry-errors tries them again")
        text_writer(sys.stderr)("".join(f"{line}\n" for line in lines))
    if stats.failed:
        raise typer.Exit(ExitCode.SOME_FAILED)


def show_estimate(estimate: BatchEstimate, *, as_json: bool) -> None:
    """Print an estimate. Raises typer.Exit if records are invalid."""
    lines = [json.dumps(_estimate_fields(estimate))] if as_json else _estimate_lines(estimate)
    text_writer(sys.stdout)("".join(f"{line}\n" for line in lines))
    if estimate.bad:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _estimate_fields(estimate: BatchEstimate) -> dict[str, Any]:
    """The fields that are known."""
    fields: dict[str, Any] = {"records": estimate.records, "bad": estimate.bad}
    if estimate.tried:
        fields |= {
            "tried": estimate.tried,
            "prompt_tokens": estimate.prompt_tokens,
            "answer_tokens": estimate.answer_tokens,
            "parallel": estimate.parallel,
        }
    return fields if estimate.seconds is None else {**fields, "seconds": estimate.seconds}


def _estimate_lines(estimate: BatchEstimate) -> list[str]:
    bad = f", {estimate.bad:,} are invalid" if estimate.bad else ""
    lines = [f"records  {estimate.records:,}{bad}"]
    if estimate.tried:
        by = f"estimated from {estimate.tried} record{'s' * (estimate.tried != 1)}"
        lines.append(f"prompts  about {estimate.prompt_tokens:,} tokens, {by}")
        lines.append(f"answers  about {estimate.answer_tokens:,} tokens, {by}")
    if estimate.seconds is not None:
        lines.append(f"time     about {format_duration(estimate.seconds)}, with {estimate.parallel} records at once")
    return lines
