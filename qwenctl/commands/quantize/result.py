"""Shared by commands that quantize: handling of SIGTERM and SIGHUP, and output of plans and results."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from quantize.errors import Interrupted
from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.terminal.signals import handle_terminations
from qwenctl.terminal.streams import is_terminal, text_writer

if TYPE_CHECKING:
    from quantize.convert import ConversionResult
    from quantize.plan import ConversionPlan
    from quantize.summary import FileSummary, Summary


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which stop a conversion as Ctrl-C does; `code` is the exit code for it."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__()
        self.code = code


def _terminate(code: ExitCode) -> NoReturn:
    raise _Terminated(code)


@contextmanager
def handle_sigterm() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP stop a conversion like Ctrl-C.

    Raises QwenctlError that says what is saved, or SystemExit.
    """
    try:
        with handle_terminations(_terminate):
            yield
    except Interrupted as stopped:
        if isinstance(stopped.__cause__, _Terminated):
            raise QwenctlError(stopped.message, stopped.hint, stopped.__cause__.code) from stopped
        raise
    except _Terminated as before_it:
        raise SystemExit(before_it.code) from before_it


def check_parts(plan: ConversionPlan, options: Iterable[str]) -> None:
    """Raise QwenctlError if one of the `options` asks for a part (MTP, vision) that the checkpoint does not have."""
    for option in options:
        is_there, part = (plan.mtp, "MTP block") if option == "--mtp" else (plan.vision_files, "vision encoder")
        if not is_there:
            raise QwenctlError(f"{option} has no effect: {plan.checkpoint.name} has no {part}", "leave it out")


def show_result(plan: ConversionPlan, result: ConversionResult, *, as_json: bool, quiet: bool) -> None:
    """Show the files made: a summary on standard error, and paths or JSON on standard output."""
    from quantize.summary import summarize_files
    from qwenctl.views.quantization import note_lines, result_lines

    files = summarize_files(plan)
    print_status(*note_lines(plan.notes), quiet=quiet)
    print_status(*result_lines(files, result), f"next: {command_line('chat', '-m', str(files[0].path))}", quiet=quiet)
    if as_json:
        print_json(
            {
                "type": plan.recipe.name, "files": _file_fields(files), "bytes": result.n_bytes,
                "resumed_bytes": result.resumed_bytes, "seconds": round(result.wall_seconds, 3),
                "kernel_seconds": round(result.kernel_seconds, 3), "threads": result.threads,
                "notes": plan.notes,
            }
        )  # fmt: skip
    elif not is_terminal(sys.stdout):
        text_writer(sys.stdout)("".join(f"{file.path}\n" for file in files))


def show_plan(
    plan: ConversionPlan, threads: int, *, as_json: bool, more: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Show on standard output what would be made; JSON gets the fields `more` too."""
    from quantize.summary import summarize
    from qwenctl.views.quantization import print_summary

    summary = summarize(plan, threads)
    if as_json:
        print_json({**_plan_fields(summary), **more})
    else:
        print_summary(summary, sys.stdout)


def _plan_fields(summary: Summary) -> dict[str, Any]:
    return {
        "type": summary.recipe,
        "files": _file_fields(summary.files),
        "bytes": summary.n_bytes,
        "bits_per_weight": round(summary.bits_per_weight, 4),
        "classes": [
            {"class": part.tensor_class, "type": part.type_name, "tensors": part.tensors, "weights": part.weights,
             "bytes": part.n_bytes}
            for part in summary.rows
        ],
        "tensors": [
            {"name": tensor.name, "shape": tensor.shape, "type": tensor.type_name, "bytes": tensor.n_bytes}
            for tensor in summary.tensors
        ],
        "disk": {
            "folder": str(summary.disk_space.folder),
            "needed_bytes": summary.disk_space.needed,
            "free_bytes": summary.disk_space.free,
        },
        "memory_bytes": summary.memory_bytes,
        "threads": summary.threads,
        "notes": summary.notes,
    }  # fmt: skip


def _file_fields(files: Iterable[FileSummary]) -> list[dict[str, Any]]:
    return [
        {"path": str(file.path), "bytes": file.n_bytes, "bits_per_weight": round(file.bits_per_weight, 4)}
        for file in files
    ]


def print_status(*lines: str, quiet: bool) -> None:
    """Print lines on standard error, unless `quiet`."""
    if not quiet and sys.stderr is not None:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()


def print_json(fields: Mapping[str, object]) -> None:
    """Print one JSON object on standard output."""
    text_writer(sys.stdout)(json_format.dumps(fields, ensure_ascii=False) + "\n")
