"""What evaluating tokens costs: a prompt in batches, then tokens one by one, after some that do not count.

As llama-bench measures: made-up tokens, no tokenizer and no sampling. The context goes back to the same depth for each
measurement by a snapshot, as it does for a conversation, and is read again only where there is none.
"""

from __future__ import annotations

import random
import time

import llama_cpp.llama_cpp as llama

from qwenctl.engine.llama.cancellation import CancelFlag
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import BenchmarkResult, RequestFailed, RunBenchmark


def run_benchmark(model: LoadedModel, request: RunBenchmark, interrupt: CancelFlag) -> BenchmarkResult:
    """The seconds of what is asked for. Raises RequestFailure if it does not fit, or is cancelled."""
    sequence, wanted = model.sequence, request.depth + request.prompt + request.generate
    if wanted > sequence.size:
        raise RequestError(
            RequestFailed("context", f"{wanted:,} tokens, context is {sequence.size:,}", f"-c {wanted} makes room")
        )
    tokens = _tokens(model.vocabulary_size, wanted)
    _read_depth(model, tokens[: request.depth])
    start = time.perf_counter()
    _read(model, tokens[: request.depth + request.prompt])
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


def _read(model: LoadedModel, tokens: list[int]) -> None:
    """Read a prompt, as for an answer."""
    model.threads.reading.begin()
    held = len(model.sequence.tokens)
    for done in model.sequence.prefill(tokens, (), model.batch_tokens):
        model.threads.reading.step(done - held)
        held = done


def _read_depth(model: LoadedModel, tokens: list[int]) -> None:
    """Let the context hold these tokens and no others."""
    sequence = model.sequence
    if not tokens:
        sequence.clear()
        return
    sequence.reuse_prefix([*tokens, -1])  # another token than any that may follow: so that it parts right there
    for _ in sequence.prefill(tokens, {len(tokens)}, model.batch_tokens):
        pass
    llama.llama_synchronize(model.context)


def _tokens(vocabulary_size: int, count: int) -> list[int]:
    """The same for each count up to their length: one is a beginning of the other."""
    chosen = random.Random(0)  # noqa: S311 - any token costs the same
    return [chosen.randrange(vocabulary_size) for _ in range(count)]
