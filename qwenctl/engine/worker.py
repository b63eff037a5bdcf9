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
from qwenctl.engine.benchmark import measure
from qwenctl.engine.event_writer import Outbox
from qwenctl.engine.generation.generate import generate
from qwenctl.engine.generation.prefill import KEPT_TOKENS, Keep, prepare, read_prefix
from qwenctl.engine.kv.state_file import StateWriter, UnusableState, read_state
from qwenctl.engine.llama.cancellation import Interrupt
from qwenctl.engine.llama.log import LlamaLog
from qwenctl.engine.model import Model, load_model
from qwenctl.engine.request_errors import RequestFailure
from qwenctl.machine.llama_process import errors_end_the_process
from qwenctl.protocol.batch import AddRecord, BatchRequest, EndBatch, OpenBatch
from qwenctl.protocol.codec import decode
from qwenctl.protocol.media import Look, See, Seen
from qwenctl.protocol.messages import (
    Answered,
    Cancel,
    Close,
    Count,
    Counted,
    CountPrompt,
    EngineStats,
    Failed,
    Flush,
    Flushed,
    Generate,
    Load,
    LoadProgress,
    Measure,
    Message,
    PrefixRead,
    Prepare,
    ReadPrefix,
    Request,
    Restore,
    Restored,
)

_PROGRESS_STEP = 0.01


def start() -> _Engine:
    """The engine of the program at the other end of standard input and output, for as long as that is there."""
    faulthandler.enable()
    events = os.dup(1)
    os.dup2(2, 1)
    interrupt = Interrupt()
    requests: queue.Queue[Request | BatchRequest] = queue.Queue()
    reader = threading.Thread(target=_read_requests, args=(sys.stdin.buffer, requests, interrupt), daemon=True)
    reader.start()
    return _Engine(Outbox(events), requests, interrupt, LlamaLog(), StateWriter())


def _read_requests(lines: BinaryIO, requests: queue.Queue[Request | BatchRequest], interrupt: Interrupt) -> None:
    """Hand over each request as it comes; end the process when no more can come."""
    for line in lines:
        with errors_end_the_process():
            request = decode(line)
        if isinstance(request, Cancel):
            interrupt.set()
        elif isinstance(request, Close):
            break
        elif isinstance(request, Answered | Prepare | See):
            # Here and not where the request is done: a Cancel for the one before must not stop this one.
            interrupt.clear()
            requests.put(request)
        elif isinstance(request, OpenBatch | AddRecord | EndBatch):
            requests.put(request)
    # Not by way of the main thread: it may be inside libllama for minutes. The system frees all that there is.
    os._exit(0)


@dataclass(frozen=True)
class _Engine:
    """The thread that works: one request at a time."""

    outbox: Outbox
    requests: queue.Queue[Request | BatchRequest]
    interrupt: Interrupt
    log: LlamaLog
    writer: StateWriter

    def serve(self) -> None:
        """Load a model, then answer, until the process is ended."""
        model: Model | None = None
        while True:
            request = self.requests.get()
            try:
                if isinstance(request, Load):
                    model = self._load(request)
                elif model is None:
                    self.outbox.send(Failed("request", "no model is loaded"))
                elif isinstance(request, Generate):
                    for event in generate(model, request, self.interrupt, self._keep(model, request.keep)):
                        self.outbox.send(event)
                elif isinstance(request, OpenBatch):
                    self.requests.put(serve_batch(model, request, self.requests, self.outbox.send_now))
                elif isinstance(request, AddRecord | EndBatch):
                    pass  # of a batch that is over
                elif isinstance(request, Prepare):
                    self._prepare(model, request)
                elif isinstance(request, ReadPrefix):
                    self._read_prefix(model, request)
                elif isinstance(request, Restore):
                    self.outbox.send(_restore(model, request))
                elif isinstance(request, Count):
                    self.outbox.send(Counted(len(model.tokenizer.content(request.text))))
                elif isinstance(request, CountPrompt):
                    prompt = model.template.prompt(request.messages, think=request.think, tools=request.tools)
                    self.outbox.send(Counted(len(prompt.tokens)))
                elif isinstance(request, See):
                    model.sight.use(request.vision)
                elif isinstance(request, Look):
                    self.outbox.send(_look(model, request))
                elif isinstance(request, Measure):
                    self.outbox.send(measure(model, request, self.interrupt))
                elif isinstance(request, Flush):
                    self.outbox.send(Flushed(self.writer.flush()))
                else:
                    self.outbox.send(_stats(model))
            except RequestFailure as failure:
                self.outbox.send(failure.failed)

    def _load(self, request: Load) -> Model:
        shown = -_PROGRESS_STEP

        def report(fraction: float) -> None:
            nonlocal shown
            if fraction - shown >= _PROGRESS_STEP:
                shown = fraction
                self.outbox.send(LoadProgress(fraction))

        model = load_model(request, self.interrupt, self.log, report)
        self.outbox.send(model.loaded)
        return model

    def _prepare(self, model: Model, request: Prepare) -> None:
        with suppress(RequestFailure):  # it will be told when it is asked for
            is_whole, keep = prepare(model, request, self._has_time), self._keep(model, request.keep)
            if keep and (is_whole or self._is_awaited()):
                keep(model.sequence.saved())

    def _read_prefix(self, model: Model, request: ReadPrefix) -> None:
        for event in read_prefix(model, request, self._keep(model, request.keep)):
            if isinstance(event, PrefixRead):
                event = replace(event, error=self.writer.flush())
            self.outbox.send(event)

    def _keep(self, model: Model, path: str) -> Keep | None:
        """Keeps states in the file at `path`, if there is one."""
        return (lambda saved: self.writer.write(Path(path), model.state_key, saved)) if path else None

    def _has_time(self, left: int) -> bool:
        """Whether nobody waits, but one who waits for the state to be kept, if so little is `left` to be read."""
        return self.requests.empty() or (self._is_awaited() and left <= KEPT_TOKENS)

    def _is_awaited(self) -> bool:
        """Whether somebody waits for the state to be kept, and for nothing else."""
        waiting = tuple(self.requests.queue)
        return bool(waiting) and all(isinstance(request, Flush) for request in waiting)


def _restore(model: Model, request: Restore) -> Restored:
    """Put a kept state back; one that cannot be used is no failure, since the text can be read again."""
    try:
        saved = read_state(Path(request.path), model.state_key)
    except (UnusableState, OSError) as error:
        return Restored(0, str(error))
    if not model.sequence.restore(saved):
        return Restored(0, "it does not fit this context")
    return Restored(len(saved.tokens))


def _look(model: Model, request: Look) -> Seen:
    """What is seen, and how much longer a prompt is with it than without."""
    message = Message("user", "", media=(request.media,))
    with_it, without = (model.template.once([each], think=False).tokens for each in (message, Message("user", "")))
    return model.sight.described(request.media, len(with_it) - len(without))


def _stats(model: Model) -> EngineStats:
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
