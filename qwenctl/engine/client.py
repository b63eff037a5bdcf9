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
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, cast, get_args

from qwenctl.backend_check.results import BackendCheck
from qwenctl.engine.ending import ANSWERING, IDLE, explain_end, work_of
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.llama_process import llama_environment
from qwenctl.protocol.batch import BatchEvent, BatchRequest, SubmitRequest
from qwenctl.protocol.codec import decode, encode
from qwenctl.protocol.load import Load, LoadParams, LoadProgress, ModelInfo
from qwenctl.protocol.media import ConfigureVision, InspectMedia, Media, MediaInfo, VisionSettings
from qwenctl.protocol.messages import (
    AnyMessage,
    BenchmarkResult,
    Cancel,
    Count,
    CountPrompt,
    EngineStats,
    Flush,
    Flushed,
    Generate,
    GenerationFinished,
    Message,
    PrefillPrefix,
    PrefillProgress,
    PrefixReady,
    RequestFailed,
    RequestWithReply,
    Restore,
    Restored,
    RunBenchmark,
    Stats,
    TerminalEvent,
    TextDelta,
    TokenCount,
    Tools,
    WarmPrefix,
)

_KEPT_LOGS = 8
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
_LAST_EVENTS = get_args(TerminalEvent)


class Engine:
    """A child process that holds at most one model. See `contract.AnswerEngine` for the methods.

    `backend` is what the check of the backend has found: it limits how models are loaded, and is told with a crash.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        requests: IO[bytes],
        events: IO[bytes],
        log: Path,
        backend: BackendCheck | None = None,
    ) -> None:
        self._process, self._requests, self._events, self._log = process, requests, events, log
        self._backend, self._work = backend, IDLE
        self._pending_reply = False  # a request whose last event has not come yet
        self._sending = False
        self._cancel_next = False
        self._read_buffer = bytearray()  # of the events of a batch, what has come and was not asked for

    @classmethod
    def start(cls, logs: Path, backend: BackendCheck | None = None) -> Engine:
        """Start an engine whose log lies in the folder `logs`."""
        _remove_old_logs(logs)
        descriptor, name = tempfile.mkstemp(".log", "engine-", logs)
        # Ctrl-C goes to both processes. The engine must not die of it: the program asks it to stop.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "qwenctl.engine.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=descriptor,
                env=llama_environment(),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(descriptor)
        streams = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        return cls(process, *streams, Path(name), backend)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, path: Path, settings: LoadParams) -> Iterator[LoadProgress | ModelInfo]:
        """Load a model: progress, and at last what was loaded."""
        if self._backend is not None and not self._backend.allows_extra_buffers:
            settings = replace(settings, extra_buffers=False)
        return cast("Iterator[LoadProgress | ModelInfo]", self._ask(Load(str(path), settings)))

    def generate(self, request: Generate) -> Iterator[PrefillProgress | TextDelta | GenerationFinished]:
        """Answer: progress of reading the prompt, pieces of text, and at last the end."""
        return cast("Iterator[PrefillProgress | TextDelta | GenerationFinished]", self._ask(request))

    def warm_prefix(
        self, messages: tuple[Message, ...], *, think: bool, tools: Tools = (), keep: Path | None = None
    ) -> None:
        """Let the engine read ahead, in the background, what the next prompt will begin with, and `keep` the state."""
        self._write(encode(WarmPrefix(messages, think, str(keep or ""), tools)))

    def read_prefix(
        self, messages: tuple[Message, ...], *, keep: Path, tools: Tools = ()
    ) -> Iterator[PrefillProgress | PrefixReady]:
        """Read what every prompt with this beginning has in common, and keep its state in the file `keep`."""
        request = PrefillPrefix(messages, str(keep), tools)
        return cast("Iterator[PrefillProgress | PrefixReady]", self._ask(request))

    def restore(self, path: Path) -> Restored:
        """Go on from the state in the file `path`."""
        [restored] = self._ask(Restore(str(path)))
        return cast("Restored", restored)

    def count(self, text: str) -> int:
        """How many tokens `text` is."""
        [counted] = self._ask(Count(text))
        return cast("TokenCount", counted).tokens

    def count_prompt(self, messages: tuple[Message, ...], *, think: bool, tools: Tools = ()) -> int:
        """How many tokens the prompt for the next answer would be."""
        [counted] = self._ask(CountPrompt(messages, think, tools))
        return cast("TokenCount", counted).tokens

    def configure_vision(self, vision: VisionSettings) -> None:
        """Look at pictures so from now on; what is wrong with it is told when one is looked at."""
        self._write(encode(ConfigureVision(vision)))

    def inspect_media(self, media: Media) -> MediaInfo:
        """What the model would see of `media`."""
        [seen] = self._ask(InspectMedia(media))
        return cast("MediaInfo", seen)

    def flush(self) -> Flushed:
        """Wait until all that is to be kept is on the disk."""
        [flushed] = self._ask(Flush())
        return cast("Flushed", flushed)

    def stats(self) -> EngineStats:
        """The state between two answers."""
        [stats] = self._ask(Stats())
        return cast("EngineStats", stats)

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
        event = decode(line)
        if isinstance(event, RequestFailed):
            raise QwenctlError(event.message, event.hint, _FAILURE_CODES[event.kind])
        return cast("BatchEvent", event)

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
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def write_log(self, line: str) -> None:
        """Write a line into the engine's log."""
        with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def close(self) -> None:
        """End the engine, whatever it is doing; may be called twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._events):
            with contextlib.suppress(OSError):
                stream.close()

    def measure(self, *, prompt: int = 0, generate: int = 0, depth: int = 0) -> float:
        """Seconds that so many made-up tokens take after `depth` others: `prompt` at once, `generate` one by one."""
        [measured] = self._ask(RunBenchmark(prompt, generate, depth))
        return cast("BenchmarkResult", measured).seconds

    def _ask(self, request: RequestWithReply) -> Iterator[AnyMessage]:
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
            event = self._receive()
            if isinstance(event, RequestFailed):
                raise QwenctlError(event.message, event.hint, _FAILURE_CODES[event.kind])
            yield event

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._requests.fileno(), line) :]
        except (BrokenPipeError, ValueError) as error:  # the latter: it was closed
            raise self._end() from error

    def _receive(self) -> AnyMessage:
        line = self._events.readline()
        if not line.endswith(b"\n"):
            raise self._end()
        event = cast("AnyMessage", decode(line))
        if isinstance(event, TextDelta):
            self._work = ANSWERING
        elif isinstance(event, _LAST_EVENTS):
            self._pending_reply, self._work = False, IDLE
        return event

    def _end(self) -> QwenctlError:
        """The engine has ended: why, by its exit code and its log."""
        self._pending_reply = False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_WITHIN_S)
        self.close()
        return explain_end(self._process.returncode, self._work, self._log, self._backend)


def _remove_old_logs(logs: Path) -> None:
    """All but the newest; one that another process removes at the same time is no matter."""
    with contextlib.suppress(OSError):
        old = sorted(logs.glob("engine-*.log"), key=lambda log: log.stat().st_mtime)
        for log in old[: 1 - _KEPT_LOGS]:
            log.unlink(missing_ok=True)
