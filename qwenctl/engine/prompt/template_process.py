"""The engine's side of the process in which a chat template runs: start it, ask it, and end it at its limits.

A template's source and a prompt's variables come in, segments go out. A process that has been ended is started again
for the next prompt.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, cast

from qwenctl.child_process import child_command, clean_environment
from qwenctl.engine.prompt.render_marked import NO_TOOLS, RenderRequest, Segment
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import RequestFailed

MAX_SECONDS = 2.0  # of CPU time, beside the time for long texts
_SECONDS_PER_CHARACTER = 4e-6
_END_WITHIN_S = 1.0
_WALL_FACTOR = 30  # a process that gets no processor is ended, too, but the system may be busy


class TemplateProcess:
    """A chat template in a process of its own."""

    def __init__(self, source: str, special_tokens: Sequence[str]) -> None:
        """Raises RequestError for a template that is not valid, or that takes too long to compile."""
        self._setup = {"source": source, "special_tokens": list(special_tokens)}
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def render(self, request: RenderRequest) -> list[Segment]:
        """The prompt in segments. Raises RequestError."""
        process = self._process or self._start()
        return [tuple(each) for each in self._ask(process, {"render": vars(request)})["segments"]]

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            child_command("qwenctl.engine.prompt.template_worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
        weakref.finalize(self, _kill, process)
        self._process = process
        self._ask(process, self._setup)
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> Any:
        """The answer to a request. Raises RequestError."""
        body = json.dumps(request)
        seconds = round(MAX_SECONDS + _SECONDS_PER_CHARACTER * len(body), 1)
        line = f'{{"seconds": {seconds}, {body[1:]}\n'.encode()
        answer = _exchange(process, line, time.monotonic() + _WALL_FACTOR * seconds)
        if answer is None:
            self._process = None
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_WITHIN_S)
            code = process.poll()
            _kill(process)
            raise _template_error(_why_ended(code, seconds))
        found = json.loads(answer)
        if found.get("error") == NO_TOOLS:
            raise RequestError(RequestFailed("setting", "the model's chat template does not support functions"))
        if "error" in found:
            raise _template_error(found["error"])
        return found


def _exchange(process: subprocess.Popen[bytes], line: bytes, deadline: float) -> bytes | None:
    """Write a line, and read one; None if the process ends, or none comes until the deadline."""
    requests, answers = (cast("IO[bytes]", stream).fileno() for stream in (process.stdin, process.stdout))
    pieces: list[bytes] = []
    left = memoryview(line)
    os.set_blocking(requests, False)
    while not (pieces and pieces[-1].endswith(b"\n")):
        wait = max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select([answers], [requests] if left else [], [], wait)
        if not (readable or writable):
            return None
        if writable:
            try:
                left = left[os.write(requests, left) :]
            except BrokenPipeError:
                return None
        if readable:
            piece = os.read(answers, 1 << 20)
            if not piece:
                return None
            pieces.append(piece)
    return b"".join(pieces)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            cast("IO[bytes]", stream).close()


def _why_ended(code: int | None, seconds: float) -> str:
    if code is None or code == -signal.SIGPROF:
        return f"it takes more than {seconds:g} s"
    return f"its process ended ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def _template_error(why: str) -> RequestError:
    return RequestError(RequestFailed("template", f"the model's chat template fails: {why}"))
