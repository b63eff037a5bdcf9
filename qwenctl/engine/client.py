"""The program's side of the process boundary: start the engine, ask it, listen to it, end it.

Requests go to the child's standard input, events come from its standard output, its standard error is a log file. When
the child ends in the middle, the log says why, and the caller gets a `QwenctlError`; nothing here can hang on a child
that is gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from qwenctl.backend_check.results import BackendCheck
from qwenctl.child_process import child_command
from qwenctl.engine.ending import ANSWERING, IDLE, explain_end, work_of
from qwenctl.engine.interface import InferenceEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.llama_process import llama_environment
from qwenctl.protocol.base import Event, EventT, Notification, Reply, Request
from qwenctl.protocol.batch import BatchEvent, BatchRequest, SubmitRequest
from qwenctl.protocol.codec import decode, encode
from qwenctl.protocol.load import Load, LoadParams, LoadProgress, ModelInfo, TemplateOverride
from qwenctl.protocol.messages import Cancel, RequestFailed, TextDelta

_MAX_LOGS = 8
_END_WITHIN_S = 2.0
_FAILURE_CODES = {
    "model": ExitCode.BAD_DATA,
    "memory": ExitCode.NO_MEMORY,
    "template": ExitCode.BAD_DATA,
    "context": ExitCode.BAD_DATA,
    "setting": ExitCode.USAGE,
    "cancelled": ExitCode.INTERRUPTED,
    "request": ExitCode.BUG,
    "media": ExitCode.BAD_DATA,
    "mmproj": ExitCode.NO_INPUT,
}


class Engine(InferenceEngine):
    """A child process that holds at most one model.

    `backend` is what the check of the backend has found: it limits how models are loaded, and is told with a crash.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        requests: IO[bytes],
        events: IO[bytes],
        log: Path,
        backend: BackendCheck | None = None,
        template: TemplateOverride = TemplateOverride(),  # noqa: B008 - frozen
    ) -> None:
        self._process, self._requests, self._events, self._log = process, requests, events, log
        self._backend, self._work = backend, IDLE
        self._template = template
        self._pending_reply = False  # a request whose last event has not come yet
        self._sending = False
        self._cancel_next = False
        self._read_buffer = bytearray()  # of the events of a batch, what has come and was not asked for

    @classmethod
    def start(
        cls,
        logs: Path | None,
        backend: BackendCheck | None = None,
        template: TemplateOverride = TemplateOverride(),  # noqa: B008 - frozen
    ) -> Engine:
        """Start an engine whose log lies in the folder `logs`, or nowhere if none can be written there.

        Models are loaded with the `template`.
        """
        descriptor, name = _open_log(logs)
        # Ctrl-C goes to both processes. The engine must not die of it: the program asks it to stop.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process = subprocess.Popen(
                child_command("qwenctl.engine.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=descriptor,
                env=llama_environment(),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(descriptor)
        requests, events = (stream for stream in (process.stdin, process.stdout) if stream is not None)  # both pipes
        return cls(process, requests, events, Path(name), backend, template)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, path: Path, settings: LoadParams) -> Iterator[LoadProgress | ModelInfo]:
        """Load a model: progress, and at last what was loaded."""
        if self._backend is not None and not self._backend.allows_extra_buffers:
            settings = replace(settings, extra_buffers=False)
        return self.stream(Load(str(path), settings, self._template))

    def notify(self, message: Notification) -> None:
        """Send what is answered by nothing."""
        self._write(encode(message))

    def send(self, request: BatchRequest) -> None:
        """Send a request of a batch, and wait for nothing."""
        self._work = work_of(SubmitRequest)
        self._write(encode(request))

    def receive(self, timeout_s: float | None) -> BatchEvent | None:
        """The next event of a batch; None if none comes in `timeout_s` seconds. Raises QwenctlError."""
        descriptor = self._events.fileno()
        while (end := self._read_buffer.find(b"\n")) < 0:
            if not select.select([descriptor], [], [], timeout_s)[0]:
                return None
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise self._end()
            self._read_buffer += piece
        line = bytes(self._read_buffer[: end + 1])
        del self._read_buffer[: end + 1]
        return self._expect((BatchEvent,), self._decode(line))

    def cancel(self) -> None:
        """Stop what is running; may be called from a signal handler, even one that interrupts the sending."""
        if self._sending:
            self._cancel_next = True
        elif self._pending_reply:
            self._write(encode(Cancel()))

    def cpu_seconds(self) -> float:
        """The processor time that the engine has taken so far."""
        import psutil

        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    @property
    def pid(self) -> int:
        """The id of the engine's process."""
        return self._process.pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the engine's process by a signal, and wait until it is gone; nothing if it has ended.

        What is asked of it afterwards fails as after a crash.
        """
        self._process.send_signal(number)
        self._process.wait()

    def write_log(self, line: str) -> None:
        """Write a line into the engine's log."""
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def close(self) -> None:
        """End the engine, whatever it is doing; may be called twice."""
        self.kill()
        for stream in (self._requests, self._events):
            with contextlib.suppress(OSError):
                stream.close()

    def stream(self, request: Request[EventT]) -> Iterator[EventT]:
        """The events that answer `request`. Raises QwenctlError for a failure, or when the engine ends."""
        if self._pending_reply:  # the caller lost interest in the answer before
            self.cancel()
            while self._pending_reply:
                self._receive()
        self._pending_reply = self._sending = True
        self._work = work_of(type(request))
        self._write(encode(request))
        self._sending = False
        if self._cancel_next:
            self._cancel_next = False
            self.cancel()
        while self._pending_reply:
            yield self._expect(request.event_types(), self._receive())

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._requests.fileno(), line) :]
        except (BrokenPipeError, ValueError) as error:  # the latter: it was closed
            raise self._end() from error

    def _receive(self) -> Event:
        line = self._events.readline()
        if not line.endswith(b"\n"):
            raise self._end()
        event = self._decode(line)
        if isinstance(event, TextDelta):
            self._work = ANSWERING
        elif isinstance(event, Reply):
            self._pending_reply, self._work = False, IDLE
        return event

    def _decode(self, line: bytes) -> Event:
        try:
            return decode(line, Event)
        except ValueError as error:
            raise self._give_up(str(error)) from error

    def _expect(self, kinds: tuple[type[EventT], ...], event: Event) -> EventT:
        """`event`, if it is one of these. Raises QwenctlError for a failure, and for any other event."""
        if isinstance(event, RequestFailed):
            raise QwenctlError(event.message, event.hint, _FAILURE_CODES[event.kind])
        if not isinstance(event, kinds):
            raise self._give_up(f"{type(event).__name__} answers nothing that was asked")
        return event

    def _give_up(self, why: str) -> QwenctlError:
        """End an engine that cannot be understood."""
        self._pending_reply = False
        self.close()
        return QwenctlError(f"the model engine is out of step: {why}", f"its log: {self._log}", ExitCode.ENGINE_CRASHED)

    def _end(self) -> QwenctlError:
        """The engine has ended: why, by its exit code and its log."""
        self._pending_reply = False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_WITHIN_S)
        self.close()
        return explain_end(self._process.returncode, self._work, self._log, self._backend)


def _open_log(logs: Path | None) -> tuple[int, str]:
    """A descriptor for a new log in the folder `logs`, and its path: the null device if it cannot be written."""
    if logs is not None:
        _remove_old_logs(logs)
        with contextlib.suppress(OSError):
            return tempfile.mkstemp(".log", "engine-", logs)
    return os.open(os.devnull, os.O_RDWR), os.devnull


def _remove_old_logs(logs: Path) -> None:
    """All but the newest; one that another process removes at the same time is no matter."""
    with contextlib.suppress(OSError):
        old = sorted(logs.glob("engine-*.log"), key=lambda log: log.stat().st_mtime)
        for log in old[: 1 - _MAX_LOGS]:
            log.unlink(missing_ok=True)
