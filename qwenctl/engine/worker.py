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
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import psutil

from qwenctl.engine.batching.serve import serve_batch
from qwenctl.engine.benchmark import run_benchmark
from qwenctl.engine.event_writer import EventWriter
from qwenctl.engine.generation.generate import generate
from qwenctl.engine.generation.prefill import KEPT_TOKENS, SaveState, prefill_ahead, read_prefix
from qwenctl.engine.kv.state_file import StateMismatch, StateWriter, read_state
from qwenctl.engine.llama.cancellation import CancelFlag
from qwenctl.engine.llama.log import LlamaLog
from qwenctl.engine.model import LoadedModel, load_model
from qwenctl.engine.request_errors import RequestError
from qwenctl.machine.llama_process import errors_end_the_process
from qwenctl.protocol.batch import BatchRequest, EndBatch, StartBatch, SubmitRequest
from qwenctl.protocol.codec import decode
from qwenctl.protocol.load import Load, LoadProgress
from qwenctl.protocol.media import ConfigureVision, InspectMedia, MediaInfo
from qwenctl.protocol.messages import (
    Cancel,
    Close,
    Count,
    CountPrompt,
    EngineStats,
    Flush,
    Flushed,
    Generate,
    Message,
    PrefillPrefix,
    PrefixReady,
    Request,
    RequestFailed,
    RequestWithReply,
    Restore,
    Restored,
    RunBenchmark,
    TokenCount,
    WarmPrefix,
)

_PROGRESS_STEP = 0.01


def start() -> Worker:
    """The engine of the program at the other end of standard input and output, for as long as that is there."""
    faulthandler.enable()
    events = os.dup(1)
    os.dup2(2, 1)
    interrupt = CancelFlag()
    requests: queue.Queue[Request | BatchRequest] = queue.Queue()
    reader = threading.Thread(target=_read_requests, args=(sys.stdin.buffer, requests, interrupt), daemon=True)
    reader.start()
    return Worker(EventWriter(events), requests, interrupt, LlamaLog(), StateWriter())


def _read_requests(lines: BinaryIO, requests: queue.Queue[Request | BatchRequest], interrupt: CancelFlag) -> None:
    """Hand over each request as it comes; end the process when no more can come."""
    for line in lines:
        with errors_end_the_process():
            request = decode(line)
        if isinstance(request, Cancel):
            interrupt.set()
        elif isinstance(request, Close):
            break
        elif isinstance(request, RequestWithReply | WarmPrefix | ConfigureVision):
            # Here and not where the request is done: a Cancel for the one before must not stop this one.
            interrupt.clear()
            requests.put(request)
        elif isinstance(request, StartBatch | SubmitRequest | EndBatch):
            requests.put(request)
    # Not by way of the main thread: it may be inside libllama for minutes. The system frees all that there is.
    os._exit(0)


@dataclass(frozen=True)
class Worker:
    """The thread that works: one request at a time."""

    outbox: EventWriter
    requests: queue.Queue[Request | BatchRequest]
    interrupt: CancelFlag
    log: LlamaLog
    writer: StateWriter

    def serve(self) -> None:
        """Load a model, then answer, until the process is ended."""
        model: LoadedModel | None = None
        while True:
            request = self.requests.get()
            try:
                if isinstance(request, Load):
                    model = self._load(request)
                elif model is None:
                    self.outbox.send(RequestFailed("request", "no model is loaded"))
                elif isinstance(request, Generate):
                    for event in generate(model, request, self.interrupt, self._keep(model, request.state_path)):
                        self.outbox.send(event)
                elif isinstance(request, StartBatch):
                    self.requests.put(serve_batch(model, request, self.requests, self.outbox.send_and_wait))
                elif isinstance(request, SubmitRequest | EndBatch):
                    pass  # of a batch that is over
                elif isinstance(request, WarmPrefix):
                    self._prepare(model, request)
                elif isinstance(request, PrefillPrefix):
                    self._read_prefix(model, request)
                elif isinstance(request, Restore):
                    self.outbox.send(_restore(model, request))
                elif isinstance(request, Count):
                    self.outbox.send(TokenCount(len(model.tokenizer.tokenize_text(request.text))))
                elif isinstance(request, CountPrompt):
                    prompt = model.template.prompt(request.messages, think=request.think, tools=request.tools)
                    self.outbox.send(TokenCount(len(prompt.tokens)))
                elif isinstance(request, ConfigureVision):
                    model.sight.configure(request.vision)
                elif isinstance(request, InspectMedia):
                    self.outbox.send(_look(model, request))
                elif isinstance(request, RunBenchmark):
                    self.outbox.send(run_benchmark(model, request, self.interrupt))
                elif isinstance(request, Flush):
                    self.outbox.send(Flushed(self.writer.flush()))
                else:
                    self.outbox.send(_stats(model))
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

    def _prepare(self, model: LoadedModel, request: WarmPrefix) -> None:
        with suppress(RequestError):  # it will be told when it is asked for
            is_whole, keep = prefill_ahead(model, request, self._may_continue_prefill), self._keep(model, request.keep)
            if keep and (is_whole or self._only_flush_pending()):
                keep(model.sequence.export_state())

    def _read_prefix(self, model: LoadedModel, request: PrefillPrefix) -> None:
        for event in read_prefix(model, request, self._keep(model, request.keep)):
            if isinstance(event, PrefixReady):
                event = replace(event, error=self.writer.flush())
            self.outbox.send(event)

    def _keep(self, model: LoadedModel, path: str) -> SaveState | None:
        """Keeps states in the file at `path`, if there is one."""
        return (lambda saved: self.writer.write(Path(path), model.state_compat_key, saved)) if path else None

    def _may_continue_prefill(self, left: int) -> bool:
        """Whether nobody waits, but one who waits for the state to be kept, if so little is `left` to be read."""
        return self.requests.empty() or (self._only_flush_pending() and left <= KEPT_TOKENS)

    def _only_flush_pending(self) -> bool:
        """Whether somebody waits for the state to be kept, and for nothing else."""
        waiting = tuple(self.requests.queue)
        return bool(waiting) and all(isinstance(request, Flush) for request in waiting)


def _restore(model: LoadedModel, request: Restore) -> Restored:
    """Put a kept state back; one that cannot be used is no failure, since the text can be read again."""
    try:
        saved = read_state(Path(request.path), model.state_compat_key)
    except (StateMismatch, OSError) as error:
        return Restored(0, str(error))
    if not model.sequence.restore(saved):
        return Restored(0, "it does not fit this context")
    return Restored(len(saved.tokens))


def _look(model: LoadedModel, request: InspectMedia) -> MediaInfo:
    """What is seen, and how much longer a prompt is with it than without."""
    message = Message("user", "", media=(request.media,))
    with_it, without = (
        model.template.render_once([each], think=False).tokens for each in (message, Message("user", ""))
    )
    return model.sight.info(request.media, len(with_it) - len(without))


def _stats(model: LoadedModel) -> EngineStats:
    sequence, resident = model.sequence, psutil.Process().memory_info().rss
    snapshots, drafts = sequence.snapshots, model.speculation
    return EngineStats(
        sequence.size,
        len(sequence.tokens),
        resident,
        len(snapshots),
        snapshots.n_bytes,
        drafts.drafted,
        drafts.accepted,
    )


def main() -> None:
    """Serve until the program ends."""
    with errors_end_the_process():
        start().serve()


if __name__ == "__main__":
    main()
