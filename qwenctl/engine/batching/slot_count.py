"""How many requests to answer in parallel: measured, since it depends on the model, the machine and the placement.

A model and the maximum come in, a context with the best number of sequences goes out. More sequences yield more tokens
per pass over the weights, until computation becomes the bottleneck.
"""

from __future__ import annotations

import statistics
import time

from qwenctl.engine.batching.context import MultiSequenceContext
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.batch import RECORD_TOKENS, StartBatch

_ROUNDS = 3  # measured steps per count, after one for warm-up
_MIN_GAIN = 1.05  # in tokens/s, over half as many requests
_TOKEN = 1  # any token costs the same


def autotune_slots(
    model: LoadedModel, request: StartBatch, extra: int
) -> tuple[MultiSequenceContext, int, dict[str, float]]:
    """Return a context for the best number of requests and `extra` sequences, that number, and the measured tokens/s.

    The rates are by number of requests; empty if `request.parallel` fixes the number. Raises RequestError if the memory
    does not suffice for one request.
    """
    trained = model.loaded.training_context_tokens
    size = min(request.settings.context_tokens or RECORD_TOKENS, trained)
    if request.parallel:
        return MultiSequenceContext(model, request.settings, request.parallel + extra, size), request.parallel, {}
    context, max_parallel = _open_largest(model, request, extra, size)
    rates = _rates(context, max_parallel)
    best = _best(rates)
    if best < max_parallel:  # unused sequences would take memory from the page cache and from other programs
        context.close()
        context = MultiSequenceContext(model, request.settings, best + extra, size)
    return context, best, {str(count): rate for count, rate in rates.items()}


def _open_largest(model: LoadedModel, request: StartBatch, extra: int, size: int) -> tuple[MultiSequenceContext, int]:
    """A context for as many requests as fit into memory, at most `request.max_parallel`, and their number."""
    max_parallel = max(1, request.max_parallel)
    while True:
        try:
            return MultiSequenceContext(model, request.settings, max_parallel + extra, size), max_parallel
        except RequestError:
            if max_parallel == 1:
                raise
            max_parallel //= 2


def _rates(context: MultiSequenceContext, max_parallel: int) -> dict[int, float]:
    """Tokens/s by number of requests, doubled until two doublings in a row did not help."""
    rates: dict[int, float] = {}
    count, best, losses = 1, 0.0, 0
    while losses < 2:
        rates[count] = _rate(context, count)
        losses = 0 if rates[count] > best * _MIN_GAIN else losses + 1
        best = max(best, rates[count])
        if count == max_parallel:
            break
        count = min(2 * count, max_parallel)
    return rates


def _rate(context: MultiSequenceContext, count: int) -> float:
    """Tokens/s of `count` answers in parallel."""
    seconds = []
    for position in range(1 + _ROUNDS):
        started = time.perf_counter()
        context.evaluate([(sequence, position, [_TOKEN], True) for sequence in range(count)])
        seconds.append(time.perf_counter() - started)
    context.clear()
    return count / statistics.median(seconds[1:])


def _best(rates: dict[int, float]) -> int:
    """The fewest requests whose rate is near the highest."""
    highest = max(rates.values())
    return min(count for count, rate in rates.items() if rate * _MIN_GAIN >= highest)
