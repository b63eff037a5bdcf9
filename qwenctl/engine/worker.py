"""The child process: reads requests, does them one after the other, writes events.

Requests come as lines on standard input, events go as lines to what was standard output; that and standard error are
then the log, so that nothing in the process can write between the events. A thread reads the requests, so that one to
stop is seen while libllama works, and so that the process ends with the program that started it.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Never

import psutil

from qwenctl.engine.batching.serve import serve_batch
from qwenctl.engine.benchmark import run_benchmark
from qwenctl.engine.event_writer import EventWriter
from qwenctl.engine.generation.generate import generate
from qwenctl.engine.generation.prefill import SAVE_INTERVAL_TOKENS, SaveState, prefill_ahead, read_prefix
from qwenctl.engine.kv.state_file import StateMismatch, StateWriter, read_state
from qwenctl.engine.llama.callbacks import CancelFlag, LlamaLog
from qwenctl.engine.model import LoadedModel, load_model
from qwenctl.engine.request_errors import RequestError
from qwenctl.machine.llama_process import errors_end_the_process
from qwenctl.protocol.base import EngineInput, Event, Notification, Request
from qwenctl.protocol.batch import EndBatch, StartBatch, SubmitRequest
from qwenctl.protocol.codec import decode
from qwenctl.protocol.load import Load, LoadProgress
from qwenctl.protocol.media import ConfigureVision, InspectMedia, MediaInfo
from qwenctl.protocol.messages import (
    BenchmarkResult,
    Cancel,
    Close,
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
    Restore,
    Restored,
    RunBenchmark,
    Stats,
    TextDelta,
    TokenCount,
    WarmPrefix,
)

_PROGRESS_STEP = 0.01

Incoming = EngineInput | RequestFailed  # the latter for a line that is no message


def start() -> Worker:
    """The engine of the program at the other end of standard input and output, for as long as that is there."""
    faulthandler.enable()
    events = os.dup(1)
    os.dup2(2, 1)
    interrupt = CancelFlag()
    inputs: queue.Queue[Incoming] = queue.Queue()
    reader = threading.Thread(target=_read_inputs, args=(sys.stdin.buffer, inputs, interrupt), daemon=True)
    reader.start()
    return Worker(EventWriter(events), inputs, interrupt, LlamaLog(), StateWriter())


def _read_inputs(lines: BinaryIO, inputs: queue.Queue[Incoming], interrupt: CancelFlag) -> None:
    """Hand over each request as it comes; end the process when no more can come."""
    for line in lines:
        with errors_end_the_process():
            message = _understood(line)
        if isinstance(message, Cancel):
            interrupt.set()
        elif isinstance(message, Close):
            break
        else:
            if isinstance(message, Request | Notification):
                # Here and not where the request is done: a Cancel for the one before must not stop this one.
                interrupt.clear()
            inputs.put(message)
    # Not by way of the main thread: it may be inside libllama for minutes. The system frees all that there is.
    os._exit(0)


def _understood(line: bytes) -> Incoming:
    """The message of a line; what answers it, in its turn, if it is none: the engine is not to end for it."""
    try:
        return decode(line, EngineInput)
    except ValueError as error:
        return RequestFailed("request", str(error))


@dataclass(frozen=True)
class Worker:
    """The thread that works: one request at a time."""

    outbox: EventWriter
    inputs: queue.Queue[Incoming]
    interrupt: CancelFlag
    log: LlamaLog
    writer: StateWriter

    def serve(self) -> None:
        """Load a model, then answer, until the process is ended."""
        model: LoadedModel | None = None
        while True:
            message = self.inputs.get()
            try:
                if isinstance(message, RequestFailed):
                    self.outbox.send(message)
                elif isinstance(message, Load):
                    model = self._load(message)
                elif model is None:
                    self.outbox.send(RequestFailed("request", "no model is loaded"))
                else:
                    for event in HANDLERS[type(message)](self, model, message):
                        self.outbox.send(event)
            except RequestError as failure:
                self.outbox.send(failure.failed)

    def _load(self, request: Load) -> LoadedModel:
        shown = -_PROGRESS_STEP

        def report(fraction: float) -> None:
            nonlocal shown
            if fraction - shown >= _PROGRESS_STEP:
                shown = fraction
                self.outbox.send(LoadProgress(fraction))

        model = load_model(request, self.interrupt, self.log, report)
        self.outbox.send(model.loaded)
        return model

    def _save_state(self, model: LoadedModel, path: str) -> SaveState | None:
        """Keeps states in the file at `path`, if there is one."""
        return (lambda saved: self.writer.write(Path(path), model.state_compat_key, saved)) if path else None

    def _may_continue_prefill(self, left: int) -> bool:
        """Whether nobody waits, but one who waits for the state to be kept, if so little is `left` to be read."""
        return self.inputs.empty() or (self._only_flush_pending() and left <= SAVE_INTERVAL_TOKENS)

    def _only_flush_pending(self) -> bool:
        """Whether somebody waits for the state to be kept, and for nothing else."""
        waiting = tuple(self.inputs.queue)
        return bool(waiting) and all(isinstance(message, Flush) for message in waiting)

    def _generate(
        self, model: LoadedModel, request: Generate
    ) -> Iterable[PrefillProgress | TextDelta | GenerationFinished]:
        return generate(model, request, self.interrupt, self._save_state(model, request.state_path))

    def _warm_prefix(self, model: LoadedModel, request: WarmPrefix) -> Iterable[Never]:
        with suppress(RequestError):  # it will be told when it is asked for
            is_whole = prefill_ahead(model, request, self._may_continue_prefill)
            save = self._save_state(model, request.state_path)
            if save and (is_whole or self._only_flush_pending()):
                save(model.sequence.export_state())
        return ()

    def _prefill_prefix(self, model: LoadedModel, request: PrefillPrefix) -> Iterable[PrefillProgress | PrefixReady]:
        for event in read_prefix(model, request, self._save_state(model, request.state_path)):
            if isinstance(event, PrefixReady):
                event = replace(event, error=self.writer.flush())
            yield event

    def _restore(self, model: LoadedModel, request: Restore) -> Iterable[Restored]:
        """Put a kept state back; one that cannot be used is no failure, since the text can be read again."""
        try:
            saved = read_state(Path(request.path), model.state_compat_key)
        except (StateMismatch, OSError) as error:
            return [Restored(0, str(error))]
        if not model.sequence.restore(saved):
            return [Restored(0, "it does not fit this context")]
        return [Restored(len(saved.tokens))]

    def _count(self, model: LoadedModel, request: Count) -> Iterable[TokenCount]:
        return [TokenCount(len(model.tokenizer.tokenize_text(request.text)))]

    def _count_prompt(self, model: LoadedModel, request: CountPrompt) -> Iterable[TokenCount]:
        prompt = model.template.prompt(request.messages, think=request.enable_thinking, tools=request.tools)
        return [TokenCount(len(prompt.tokens))]

    def _configure_vision(self, model: LoadedModel, request: ConfigureVision) -> Iterable[Never]:
        model.vision.configure(request.vision)
        return ()

    def _inspect_media(self, model: LoadedModel, request: InspectMedia) -> Iterable[MediaInfo]:
        """What is seen, and how much longer a prompt is with it than without."""
        message = Message("user", "", media=(request.media,))
        with_it, without = (
            model.template.render_once([each], think=False).tokens for each in (message, Message("user", ""))
        )
        return [model.vision.info(request.media, len(with_it) - len(without))]

    def _run_benchmark(self, model: LoadedModel, request: RunBenchmark) -> Iterable[BenchmarkResult]:
        return [run_benchmark(model, request, self.interrupt)]

    def _flush(self, _model: LoadedModel, _request: Flush) -> Iterable[Flushed]:
        return [Flushed(self.writer.flush())]

    def _stats(self, model: LoadedModel, _request: Stats) -> Iterable[EngineStats]:
        sequence, drafts, resident = model.sequence, model.speculation, psutil.Process().memory_info().rss
        snapshots = len(sequence.checkpoints), sequence.checkpoints.n_bytes
        return [EngineStats(sequence.size, len(sequence.tokens), resident, *snapshots, drafts.drafted, drafts.accepted)]

    def _start_batch(self, model: LoadedModel, request: StartBatch) -> Iterable[Never]:
        self.inputs.put(serve_batch(model, request, self.inputs, self.outbox.send_and_wait))
        return ()

    def _skip(self, _model: LoadedModel, _request: SubmitRequest | EndBatch) -> Iterable[Never]:
        """Of a batch that is over."""
        return ()


# What is done for each message with the model that is loaded; the events that come of it are sent to the program.
HANDLERS: dict[type[EngineInput], Callable[[Worker, LoadedModel, Any], Iterable[Event]]] = {
    Generate: Worker._generate,
    WarmPrefix: Worker._warm_prefix,
    PrefillPrefix: Worker._prefill_prefix,
    Restore: Worker._restore,
    Count: Worker._count,
    CountPrompt: Worker._count_prompt,
    ConfigureVision: Worker._configure_vision,
    InspectMedia: Worker._inspect_media,
    RunBenchmark: Worker._run_benchmark,
    Flush: Worker._flush,
    Stats: Worker._stats,
    StartBatch: Worker._start_batch,
    SubmitRequest: Worker._skip,
    EndBatch: Worker._skip,
}


def main() -> None:
    """Serve until the program ends."""
    with errors_end_the_process():
        start().serve()


if __name__ == "__main__":
    main()
