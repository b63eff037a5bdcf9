"""Measures the evaluation of tokens: a prompt in batches, then tokens one by one, at a given depth of the context.

It measures as llama-bench does: random tokens, no tokenizer and no sampling. Before each measurement, the context is
rolled back to the same depth by a checkpoint, as for a conversation; the depth is only evaluated again if there is
none.
"""

from __future__ import annotations

import random
import time

import llama_cpp.llama_cpp as llama

from qwenctl.engine.llama.callbacks import CancelFlag
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import BenchmarkResult, RequestFailed, RunBenchmark


def run_benchmark(model: LoadedModel, request: RunBenchmark, interrupt: CancelFlag) -> BenchmarkResult:
    """The seconds that the requested tokens take. Raises RequestError if they do not fit, or if cancelled."""
    sequence, total = model.sequence, request.depth + request.prompt + request.generate
    if total > sequence.size:
        raise RequestError(
            RequestFailed("context", f"{total:,} tokens, context is {sequence.size:,}", f"-c {total} makes room")
        )
    tokens = _random_tokens(model.vocabulary_size, total)
    _prefill_depth(model, tokens[: request.depth])
    start = time.perf_counter()
    _prefill(model, tokens[: request.depth + request.prompt])
    llama.llama_synchronize(model.context)
    model.threads.decoding.begin()
    for token in tokens[request.depth + request.prompt :]:
        if interrupt:
            break
        sequence.decode(token)
        llama.llama_synchronize(model.context)
        model.threads.decoding.step()
    seconds = time.perf_counter() - start
    if interrupt:
        raise RequestError(RequestFailed("cancelled", "stopped during the benchmark"))
    return BenchmarkResult(seconds)


def _prefill(model: LoadedModel, tokens: list[int]) -> None:
    """Prefill `tokens`, as for an answer."""
    model.threads.prefill.begin()
    n_evaluated = len(model.sequence.tokens)
    for done in model.sequence.prefill(tokens, (), model.batch_tokens):
        model.threads.prefill.step(done - n_evaluated)
        n_evaluated = done


def _prefill_depth(model: LoadedModel, tokens: list[int]) -> None:
    """Make the context hold exactly `tokens`."""
    sequence = model.sequence
    if not tokens:
        sequence.clear()
        return
    sequence.reuse_prefix([*tokens, -1])  # -1 differs from any token that may follow, so the match ends right there
    for _ in sequence.prefill(tokens, {len(tokens)}, model.batch_tokens):
        pass
    llama.llama_synchronize(model.context)


def _random_tokens(vocabulary_size: int, count: int) -> list[int]:
    """Random tokens, the same in each call: a shorter list is a prefix of a longer one."""
    rng = random.Random(0)  # noqa: S311 - any token costs the same
    return [rng.randrange(vocabulary_size) for _ in range(count)]
