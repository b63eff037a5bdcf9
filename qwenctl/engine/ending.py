"""Why an engine has ended, in words for a person: what it was doing, how it ended, and what to do.

The exit code of the child, its log and the result of the backend's check come in, a `QwenctlError` goes out.
"""

from __future__ import annotations

import signal
from pathlib import Path

from qwenctl.backend_check.results import UNCHECKED, BackendCheck
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.llama_build import build_command
from qwenctl.machine.llama_process import ending
from qwenctl.protocol.batch import SubmitRequest
from qwenctl.protocol.load import Load
from qwenctl.protocol.media import InspectMedia
from qwenctl.protocol.messages import Count, CountPrompt, Flush, Generate, PrefillPrefix, Restore, RunBenchmark

# What the engine was doing, by the request that it was at.
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
    """What an engine does that is at such a request, in words."""
    return _WORK.get(request, IDLE)


def explain_end(code: int, work: str, log: Path, backend: BackendCheck | None) -> QwenctlError:
    """The failure of an engine that ended with `code` (minus the signal, if it was one) at its `work`."""
    text = log.read_text("utf-8", "replace")
    how = "stopped" if code < 0 else "failed"  # an error of Python's, which the last line of the log names
    message = f"the model engine {how} {work} ({ending(code, text)})"
    return QwenctlError(message, _hint(code, log, backend), ExitCode.ENGINE_CRASHED)


def _hint(code: int, log: Path, backend: BackendCheck | None) -> str:
    if code == -signal.SIGKILL:
        return "did the system kill it for lack of memory? -c sets a smaller context"
    if code == -signal.SIGILL:
        return f"llama.cpp is built for another processor; for this one: {build_command('CPU')}"
    return f"{_in_words(backend)}; its log: {log}"


def _in_words(backend: BackendCheck | None) -> str:
    """Whether llama.cpp has been found to compute what it should, and how to find out."""
    if backend is None or backend == UNCHECKED:
        return "`qwenctl doctor` checks llama.cpp"
    failed = [one.title for one in backend.subjects if not one.passed]
    found = f"failed with {', '.join(failed)}" if failed else "passed"
    return f"llama.cpp's check had {found}; `qwenctl doctor --measure` checks again"
