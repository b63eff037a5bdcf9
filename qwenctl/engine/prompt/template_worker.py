"""The process in which a chat template runs: it comes with a model from anywhere, and may want all time and memory.

A line of JSON comes in for each prompt, a line goes out. The time limit is the kernel's: a signal that nothing catches
ends the process, whatever it is doing. Messages, tokens and libllama are not known here.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qwenctl.child_process import limit_resources
from qwenctl.engine.prompt.render_marked import CannotRender, RenderRequest, render_marked, strings
from qwenctl.engine.prompt.template_environment import CompiledTemplate

_MAX_BYTES = 512 << 20  # beside the texts
_MAX_CHARACTERS, _MAX_REPETITIONS = 1 << 20, 8  # of a prompt: its own, and how often it may write each text
_REASON_CHARACTERS = 300
_BYTES_PER_CHARACTER = 200  # of a text that is marked, joined and copied


def main() -> None:
    """Serve until the engine ends."""
    limit_resources(files=64, file_bytes=0)
    special_tokens: list[str] = []
    template: CompiledTemplate | Mapping[str, Any] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        with resource_limits(request["seconds"], _MAX_BYTES + _BYTES_PER_CHARACTER * len(line)):
            if "source" in request:
                special_tokens, template = request["special_tokens"], _compile(request["source"])
                answer: Mapping[str, Any] = {} if isinstance(template, CompiledTemplate) else template
            elif isinstance(template, CompiledTemplate):
                answer = _render(template, request["render"], special_tokens)
            else:
                answer = template
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _compile(source: str) -> CompiledTemplate | Mapping[str, Any]:
    """The template, or why there is none."""
    try:
        return CompiledTemplate(source)
    except Exception as error:  # noqa: BLE001 - a template can raise anything
        return _reason(error)


def _render(template: CompiledTemplate, request: Mapping[str, Any], special_tokens: list[str]) -> Mapping[str, Any]:
    """The segments, or why there are none."""
    try:
        segments = render_marked(template, RenderRequest(**request), special_tokens)
        n_written, n_given = (sum(map(len, texts)) for texts in ((each[0] for each in segments), strings(request)))
        if n_written > _MAX_CHARACTERS + _MAX_REPETITIONS * n_given:
            raise CannotRender(f"it writes {n_written:,} characters")
        return {"segments": segments}
    except Exception as error:  # noqa: BLE001 - a template can raise anything
        return _reason(error)


def _reason(error: Exception) -> Mapping[str, Any]:
    if isinstance(error, MemoryError):
        return {"error": f"it takes more than {_MAX_BYTES >> 20} MiB"}
    return {"error": " ".join(str(error)[:_REASON_CHARACTERS].split()) or type(error).__name__}


@contextmanager
def resource_limits(seconds: float, n_bytes: int) -> Iterator[None]:
    """Limit the block to `seconds` of CPU time, after which the process ends, and to `n_bytes` of additional memory.

    Raises MemoryError.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _virtual_bytes() + n_bytes
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends a process that does not handle it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _virtual_bytes() -> int:
    """The size of this process's address space; 0 where the system does not tell."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


if __name__ == "__main__":
    main()
