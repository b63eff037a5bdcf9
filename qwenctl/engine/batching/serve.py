"""A batch in the child: takes records from the queue of requests while it works, and sends what has ended.

It ends with a request that belongs to no batch, which goes back to the worker. What the records are is not known here.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qwenctl.engine.batching.context import MultiSequenceContext
from qwenctl.engine.batching.pinned_prefix import prefill_pinned_prefix
from qwenctl.engine.batching.scheduler import SHARED_SEQUENCES, Scheduler
from qwenctl.engine.batching.slot_count import autotune_slots
from qwenctl.engine.model import LoadedModel
from qwenctl.protocol.batch import BatchEvent, BatchProgress, BatchStarted, RecordStarted, StartBatch, SubmitRequest

_PROGRESS_SECONDS = 0.25
_GATHER_SECONDS = 0.02


def serve_batch(
    model: LoadedModel, request: StartBatch, requests: queue.Queue[Any], send: Callable[[BatchEvent], None]
) -> Any:
    """Answer records until another request comes; that request. Raises RequestFailure if libllama cannot go on."""
    extra = (SHARED_SEQUENCES if request.share_prefixes else 0) + bool(request.prefix_messages)
    context, parallel, rates = autotune_slots(model, request, extra)
    try:
        batch = Scheduler(model, context, parallel)
        if request.prefix_messages:
            _begin_with(model, context, parallel, request, batch, send)
        send(BatchStarted(parallel, context.size, rates))
        return _serve(batch, requests, send)
    finally:
        context.close()


def _begin_with(
    model: LoadedModel,
    context: MultiSequenceContext,
    sequence: int,
    request: StartBatch,
    batch: Scheduler,
    send: Callable[[Any], None],
) -> None:
    """Read the beginning that was named, and tell how far it is."""
    began, evaluated = time.perf_counter(), 0

    def tell(count: int) -> None:
        nonlocal evaluated
        evaluated = count
        send(BatchProgress(evaluated, 0, 0, time.perf_counter() - began, 0.0, 0, 0))

    tokens = prefill_pinned_prefix(model, context, sequence, request, tell)
    batch.set_pinned_prefix(np.array(tokens, np.int32), evaluated, time.perf_counter() - began)


def _next(requests: queue.Queue[Any], timeout_s: float | None) -> Any:
    """The next request; None if none comes in that time."""
    try:
        return requests.get(timeout=timeout_s) if timeout_s != 0 else requests.get_nowait()
    except queue.Empty:
        return None


def _serve(batch: Scheduler, requests: queue.Queue[Any], send: Callable[[BatchEvent], None]) -> Any:
    told = float("-inf")
    while True:
        waits = None if batch.is_idle() else 0.0
        while (request := _next(requests, waits)) is not None:
            if not isinstance(request, SubmitRequest):
                return request
            batch.add(request)
            # Where nothing runs yet, those that follow at once belong together: they may have a beginning in common.
            waits = _GATHER_SECONDS if waits is None else waits
        ended: list[BatchEvent] = []
        for event in batch.step():
            if isinstance(event, RecordStarted):  # at once, for the engine may fail on it
                send(event)
            else:
                ended.append(event)
        if batch.is_idle() or time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            send(batch.progress)  # before the last answer, after which nobody listens
        for answer in ended:
            send(answer)
