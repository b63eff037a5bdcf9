"""Serves a batch in the child process: takes requests from the queue while it works, and sends what has finished.

It ends with the first request that does not belong to the batch, which is returned to the worker. The content of the
requests is not known here.
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

_PROGRESS_SECONDS = 0.25  # between two progress events
_GATHER_SECONDS = 0.02  # wait for further requests before the first is started


def serve_batch(
    model: LoadedModel, request: StartBatch, requests: queue.Queue[Any], send: Callable[[BatchEvent], None]
) -> Any:
    """Answer requests until one of another kind arrives, which is returned. Raises RequestError if libllama fails."""
    extra = (SHARED_SEQUENCES if request.share_prefixes else 0) + bool(request.prefix_messages)
    context, parallel, rates = autotune_slots(model, request, extra)
    try:
        batch = Scheduler(model, context, parallel)
        if request.prefix_messages:
            _prefill_pinned(model, context, parallel, request, batch, send)
        send(BatchStarted(parallel, context.size, rates))
        return _serve(batch, requests, send)
    finally:
        context.close()


def _prefill_pinned(
    model: LoadedModel,
    context: MultiSequenceContext,
    sequence: int,
    request: StartBatch,
    batch: Scheduler,
    send: Callable[[Any], None],
) -> None:
    """Evaluate the pinned prefix, and report the progress."""
    started, evaluated = time.perf_counter(), 0

    def report(count: int) -> None:
        nonlocal evaluated
        evaluated = count
        send(BatchProgress(evaluated, 0, 0, time.perf_counter() - started, 0.0, 0, 0))

    tokens = prefill_pinned_prefix(model, context, sequence, request, report)
    batch.set_pinned_prefix(np.array(tokens, np.int32), evaluated, time.perf_counter() - started)


def _next(requests: queue.Queue[Any], timeout_s: float | None) -> Any:
    """The next request; None if none arrives within `timeout_s` seconds (None: wait for one)."""
    try:
        return requests.get(timeout=timeout_s) if timeout_s != 0 else requests.get_nowait()
    except queue.Empty:
        return None


def _serve(batch: Scheduler, requests: queue.Queue[Any], send: Callable[[BatchEvent], None]) -> Any:
    """Feed the scheduler and send its events; return the first request that is not for the batch."""
    progress_sent = float("-inf")
    while True:
        timeout_s = None if batch.is_idle() else 0.0
        while (request := _next(requests, timeout_s)) is not None:
            if not isinstance(request, SubmitRequest):
                return request
            batch.add(request)
            # If nothing runs yet, wait briefly for more requests: they may share a prefix with the first.
            timeout_s = _GATHER_SECONDS if timeout_s is None else timeout_s
        ended: list[BatchEvent] = []
        for event in batch.step():
            if isinstance(event, RecordStarted):  # at once, so that a crash can be attributed to it
                send(event)
            else:
                ended.append(event)
        if batch.is_idle() or time.monotonic() - progress_sent > _PROGRESS_SECONDS:
            progress_sent = time.monotonic()
            send(batch.progress)  # before the last answer: the client stops listening after it
        for answer in ended:
            send(answer)
