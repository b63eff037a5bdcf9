"""Explains why an engine has ended: what it was doing, how it ended, and what to do.

The child's exit code, its log and the result of the backend check come in, a `QwenctlError` goes out.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from qwenctl.backend_check.results import UNCHECKED, BackendCheck
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.llama_build import build_command
from qwenctl.machine.llama_process import describe_exit
from qwenctl.protocol.batch import SubmitRequest
from qwenctl.protocol.load import Load
from qwenctl.protocol.media import InspectMedia
from qwenctl.protocol.messages import Count, CountPrompt, Flush, Generate, PrefillPrefix, Restore, RunBenchmark

# What the engine was doing, by the type of its request.
_WORK: dict[type[object], str] = {
    Load: "while it loaded the model",
    Generate: "while it read the prompt",
    PrefillPrefix: "while it read a prefix",
    Restore: "while it restored a saved state",
    Count: "while it counted tokens",
    CountPrompt: "while it counted tokens",
    InspectMedia: "while it encoded an image",
    RunBenchmark: "during a benchmark",
    Flush: "while it saved its state",
    SubmitRequest: "while it answered a batch",
}
ANSWERING, IDLE = "while it answered", "while it was idle"


def work_of(request: type[object]) -> str:
    """What an engine does while it handles a request of this type, as text."""
    return _WORK.get(request, IDLE)


def explain_end(code: int, work: str, log: Path, backend: BackendCheck | None) -> QwenctlError:
    """The error for an engine that ended with `code` (the negated signal, if one killed it) during `work`."""
    text = log.read_text("utf-8", "replace")
    how = "stopped" if code < 0 else "failed"  # a Python error, whose message is the log's last line
    message = f"the model engine {how} {work} ({describe_exit(code, text)})"
    return QwenctlError(message, _hint(code, log, backend), ExitCode.ENGINE_CRASHED)


def _hint(code: int, log: Path, backend: BackendCheck | None) -> str:
    if code == -signal.SIGKILL:
        return "did the system kill it for lack of memory? -c sets a smaller context"
    if code == -signal.SIGILL:
        return f"llama.cpp is built for another processor; for this one: {build_command('CPU')}"
    where = "its log could not be written" if str(log) == os.devnull else f"its log: {log}"
    return f"{_check_status(backend)}; {where}"


def _check_status(backend: BackendCheck | None) -> str:
    """Whether llama.cpp passed its check, and how to check it."""
    if backend is None or backend == UNCHECKED:
        return "`qwenctl doctor` checks llama.cpp"
    failed = [subject.title for subject in backend.subjects if not subject.passed]
    outcome = f"failed with {', '.join(failed)}" if failed else "passed"
    return f"llama.cpp's check had {outcome}; `qwenctl doctor --measure` checks again"
