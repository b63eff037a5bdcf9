"""How many records at once: measured, because it depends on the model, the machine and where the experts lie.

A model and the most that is wanted come in, a context with a number of sequences goes out. More sequences mean more
tokens for each reading of the weights, until computing is what takes the time.
"""

from __future__ import annotations

import statistics
import time

from qwenctl.engine.batching.context import MultiSequenceContext
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.batch import RECORD_TOKENS, StartBatch

_ROUNDS = 3
_WORTH_IT = 1.05  # tokens/s, against half as many records
_TOKEN = 1  # any token costs the same


def autotune_slots(
    model: LoadedModel, request: StartBatch, extra: int
) -> tuple[MultiSequenceContext, int, dict[str, float]]:
    """A context for as many records as is best, and `extra` sequences; their number; the tokens/s that were measured.

    Raises RequestFailure if there is not the memory for one record.
    """
    trained = model.loaded.training_context_tokens
    size = min(request.settings.context_tokens or RECORD_TOKENS, trained)
    if request.parallel:
        return MultiSequenceContext(model, request.settings, request.parallel + extra, size), request.parallel, {}
    context, most = _largest(model, request, extra, size)
    rates = _rates(context, most)
    best = _best(rates)
    if best < most:  # what is not used would take memory from the page cache, and from others
        context.close()
        context = MultiSequenceContext(model, request.settings, best + extra, size)
    return context, best, {str(count): rate for count, rate in rates.items()}


def _largest(model: LoadedModel, request: StartBatch, extra: int, size: int) -> tuple[MultiSequenceContext, int]:
    """A context for as many records as there is memory for, at most `request.most`."""
    most = max(1, request.max_parallel)
    while True:
        try:
            return MultiSequenceContext(model, request.settings, most + extra, size), most
        except RequestError:
            if most == 1:
                raise
            most //= 2


def _rates(context: MultiSequenceContext, most: int) -> dict[int, float]:
    """Tokens/s by number of records; no further than where twice in a row more records did not help."""
    rates: dict[int, float] = {}
    count, best, losses = 1, 0.0, 0
    while losses < 2:
        rates[count] = _rate(context, count)
        losses = 0 if rates[count] > best * _WORTH_IT else losses + 1
        best = max(best, rates[count])
        if count == most:
            break
        count = min(2 * count, most)
    return rates


def _rate(context: MultiSequenceContext, count: int) -> float:
    """Tokens/s of `count` answers together."""
    seconds = []
    for position in range(1 + _ROUNDS):
        begin = time.perf_counter()
        context.evaluate([(sequence, position, [_TOKEN], True) for sequence in range(count)])
        seconds.append(time.perf_counter() - begin)
    context.clear()
    return count / statistics.median(seconds[1:])


def _best(rates: dict[int, float]) -> int:
    """The fewest records whose rate is near the highest."""
    highest = max(rates.values())
    return min(count for count, rate in rates.items() if rate * _WORTH_IT >= highest)
