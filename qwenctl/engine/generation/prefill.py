"""Prefill: evaluates prompts, as far as they are not in the sequence yet, and checks that they fit.

A model and messages come in, progress goes out; the tokens are then in the model's sequence. What is generated from
them is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from qwenctl.engine.kv.state_file import SequenceState
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.prompt.chat_template import Prompt
from qwenctl.engine.request_errors import RequestError
from qwenctl.models.context_memory import max_context
from qwenctl.protocol.messages import (
    Generate,
    Message,
    PrefillPrefix,
    PrefillProgress,
    PrefixReady,
    RequestFailed,
    WarmPrefix,
)

_AHEAD_TOKENS = 128  # batch size of a background prefill: a request that arrives meanwhile waits for one batch
# A crash may cost this much of a long prefill: at least 2,048 tokens, at most a tenth.
SAVE_INTERVAL_TOKENS, _SAVE_INTERVAL_SHARE = 2048, 0.1
_SAVE_INTERVAL_S = 30.0  # for a prompt of an answer: evaluating it again takes no longer than writing its state

CONTEXT_LIMIT, RECORD_LIMIT = "context is", "a record can have"  # what a prompt that is too long is told

SaveState = Callable[[SequenceState], None]


def prefill(
    model: LoadedModel, prompt: Prompt, save_state: SaveState | None = None, every_s: float = _SAVE_INTERVAL_S
) -> Iterator[PrefillProgress]:
    """Evaluate what of `prompt` is not in the sequence yet. Returns early if cancelled.

    Intermediate states of a long prompt go to `save_state`, at most once in `every_s` seconds, so that a crash costs
    about a tenth of the time.
    """
    saved_at = started = time.perf_counter()
    total, sequence = len(prompt.tokens), model.sequence
    n_saved = cached = sequence.reuse_prefix(prompt.tokens)
    step, threads, n_evaluated = checkpoint_interval(total), model.threads.prefill, cached
    threads.begin()
    for done in sequence.prefill(prompt.tokens, prompt.branch_points, model.batch_tokens, prompt.media_items):
        threads.step(done - n_evaluated)
        n_evaluated = done
        yield PrefillProgress(done - cached, total - cached, time.perf_counter() - started)
        if save_state and done < total and done - n_saved >= step and time.perf_counter() - saved_at >= every_s:
            n_saved, saved_at = done, time.perf_counter()
            save_state(sequence.export_state())


def prefill_ahead(model: LoadedModel, request: WarmPrefix, may_continue: Callable[[int], bool]) -> bool:
    """Evaluate what the next prompt will start with: the conversation, and the last answer without its thinking.

    Continues while `may_continue`, which receives the number of remaining tokens. Returns whether all were evaluated.
    """
    prompt = model.template.shared_prefix(request.messages, think=request.enable_thinking, tools=request.tools)
    if len(prompt.tokens) < model.sequence.size:
        model.sequence.reuse_prefix(prompt.tokens)
        # Closing the generator resets libllama's abort callback, even if the loop below stops early.
        with closing(
            model.sequence.prefill(prompt.tokens, prompt.branch_points, _AHEAD_TOKENS, prompt.media_items)
        ) as batches:
            while may_continue(len(prompt.tokens) - len(model.sequence.tokens)) and next(batches, None):
                pass
    return model.sequence.tokens == prompt.tokens


def read_prefix(
    model: LoadedModel, request: PrefillPrefix, save_state: SaveState | None
) -> Iterator[PrefillProgress | PrefixReady]:
    """Evaluate the common prefix of all prompts that start with these messages, and save its state on the way.

    Raises RequestError if it does not fit.
    """
    check_size(model, request.messages, model.sequence.size)
    prompt = model.template.shared_prefix(request.messages, think=True, tools=request.tools)
    total, sequence = len(prompt.tokens), model.sequence
    if total >= sequence.size:
        raise context_overflow(model, total, sequence.size, has_media=bool(prompt.media_items))
    n_cached = sequence.reuse_prefix(prompt.tokens) if sequence.tokens != prompt.tokens else total
    if n_cached < total:
        yield from prefill(model, prompt, save_state, every_s=0)
        if save_state and len(sequence.tokens) > n_cached:
            save_state(sequence.export_state())
    yield PrefixReady(len(sequence.tokens), total)


def checkpoint_interval(total: int) -> int:
    """The number of tokens between two saved states, in a prefill of `total` tokens."""
    return max(SAVE_INTERVAL_TOKENS, int(total * _SAVE_INTERVAL_SHARE))


def check_biases(model: LoadedModel, request: Generate) -> None:
    """Raises RequestError for a bias of a token that the vocabulary does not have."""
    unknown = next((token for token, _ in request.logit_bias if not 0 <= token < model.vocabulary_size), None)
    if unknown is not None:
        message = f"logit_bias: the model has no token {unknown}, its ids are 0 to {model.vocabulary_size - 1}"
        raise RequestError(RequestFailed("setting", message))


def check_size(model: LoadedModel, messages: Sequence[Message], size: int, limit: str = CONTEXT_LIMIT) -> None:
    """Raises RequestError for messages that cannot fit in `size` tokens, before the tokenizer spends minutes on them.

    `limit` is as for `context_overflow`.
    """
    n_bytes = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
    # A lower bound: no token is longer than the longest in the vocabulary.
    min_tokens = n_bytes // model.tokenizer.longest_token_bytes
    if min_tokens >= size:
        raise context_overflow(model, min_tokens, size, limit, is_at_least=True)


def context_overflow(
    model: LoadedModel,
    n_tokens: int,
    size: int,
    limit: str = CONTEXT_LIMIT,
    *,
    is_at_least: bool = False,
    has_media: bool = False,
) -> RequestError:
    """The error for a prompt of `n_tokens` tokens, or with `is_at_least` of more, where there is room for `size`.

    `limit` is said before `size`; `has_media` if the prompt contains images.
    """
    longest, needed = max_context(model.loaded.training_context_tokens), 1 << n_tokens.bit_length()
    hint = f"-c {min(needed, longest)} makes room for it"
    if n_tokens >= longest:
        hint = f"the model supports {longest:,} tokens, including the answer"
    if has_media:
        hint += ", --image-max-tokens makes images smaller"
    count = f"more than {n_tokens:,}" if is_at_least else f"{n_tokens:,}"
    return RequestError(RequestFailed("context", f"prompt has {count} tokens, {limit} {size:,}", hint))
