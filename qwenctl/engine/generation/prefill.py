"""Reading prompts: how much of one is there already, what of it does not fit, and what is read before it is asked for.

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
from qwenctl.protocol.messages import Message, PrefillPrefix, PrefillProgress, PrefixReady, RequestFailed, WarmPrefix

_AHEAD_TOKENS = 128  # few enough that a person who asks meanwhile does not wait long
KEPT_TOKENS, _KEPT_SHARE = 2048, 0.1  # of a long reading, how much may be lost when all stops
_KEPT_SECONDS = 30.0  # of one for an answer: what is read in less need not be kept, and takes as much to write

SaveState = Callable[[SequenceState], None]


def prefill(
    model: LoadedModel, prompt: Prompt, keep: SaveState | None = None, every_s: float = _KEPT_SECONDS
) -> Iterator[PrefillProgress]:
    """Evaluate what of `prompt` the sequence does not hold yet. It ends early if it is interrupted.

    Of a long one parts are given to `keep` on the way, at most one in `every_s` seconds, so that a crash costs a tenth
    of the time.
    """
    kept_s = started = time.perf_counter()
    total, sequence = len(prompt.tokens), model.sequence
    kept = cached = sequence.reuse_prefix(prompt.tokens)
    step, threads, held = checkpoint_interval(total), model.threads.reading, cached
    threads.begin()
    for done in sequence.prefill(prompt.tokens, prompt.branch_points, model.batch_tokens, prompt.views):
        threads.step(done - held)
        held = done
        yield PrefillProgress(done - cached, total - cached, time.perf_counter() - started)
        if keep and done < total and done - kept >= step and time.perf_counter() - kept_s >= every_s:
            kept, kept_s = done, time.perf_counter()
            keep(sequence.export_state())


def prefill_ahead(model: LoadedModel, request: WarmPrefix, is_wanted: Callable[[int], bool]) -> bool:
    """Evaluate what the next prompt will begin with, the last answer without its thinking.

    Goes on while `is_wanted`, which gets the number of tokens that are left. Returns whether all has been evaluated.
    """
    prompt = model.template.shared_prefix(request.messages, think=request.think, tools=request.tools)
    if len(prompt.tokens) < model.sequence.size:
        model.sequence.reuse_prefix(prompt.tokens)
        with closing(
            model.sequence.prefill(prompt.tokens, prompt.branch_points, _AHEAD_TOKENS, prompt.views)
        ) as batches:
            while is_wanted(len(prompt.tokens) - len(model.sequence.tokens)) and next(batches, None):
                pass
    return model.sequence.tokens == prompt.tokens


def read_prefix(
    model: LoadedModel, request: PrefillPrefix, keep: SaveState | None
) -> Iterator[PrefillProgress | PrefixReady]:
    """Evaluate what all prompts have in common that begin with these messages; `keep` what has been read.

    Raises RequestFailure if it does not fit.
    """
    check_size(model, request.messages)
    prompt = model.template.shared_prefix(request.messages, think=True, tools=request.tools)
    total, sequence = len(prompt.tokens), model.sequence
    if total >= sequence.size:
        raise context_overflow(model, f"{total:,}", total, seen=bool(prompt.views))
    held = sequence.reuse_prefix(prompt.tokens) if sequence.tokens != prompt.tokens else total
    if held < total:
        yield from prefill(model, prompt, keep, every_s=0)
        if keep and len(sequence.tokens) > held:
            keep(sequence.export_state())
    yield PrefixReady(len(sequence.tokens), total)


def checkpoint_interval(total: int) -> int:
    """After how many tokens of a reading of `total` what has been read is kept."""
    return max(KEPT_TOKENS, int(total * _KEPT_SHARE))


def check_size(model: LoadedModel, messages: Sequence[Message]) -> None:
    """Raises RequestFailure at once, where the tokenizer would take minutes over what cannot fit."""
    n_bytes = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
    fewest = n_bytes // model.tokenizer.longest_token_bytes
    if fewest >= model.sequence.size:
        raise context_overflow(model, f"more than {fewest:,}", fewest)


def context_overflow(model: LoadedModel, count: str, n_tokens: int, *, seen: bool = False) -> RequestError:
    """The failure of a prompt with `n_tokens`, told as `count`; `seen` if there are pictures in it."""
    longest, needed = max_context(model.loaded.training_context_tokens), 1 << n_tokens.bit_length()
    hint = f"-c {min(needed, longest)} makes room for it"
    if n_tokens >= longest:
        hint = f"the model supports {longest:,} tokens, including the answer"
    if seen:
        hint += ", --image-max-tokens makes images smaller"
    return RequestError(
        RequestFailed("context", f"prompt has {count} tokens, context is {model.sequence.size:,}", hint)
    )
