"""One answer: read the prompt, then sample, evaluate, and pass on text, until the model ends its turn.

A model and a request come in, events go out as they happen. What the user sees of them is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from qwenctl.engine.generation.answer_state import AnswerState
from qwenctl.engine.generation.prefill import SaveState, check_size, context_overflow, prefill
from qwenctl.engine.llama.cancellation import CancelFlag
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.prompt.chat_template import Prompt
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.protocol.messages import (
    FinishReason,
    Generate,
    GenerationFinished,
    PrefillProgress,
    RequestFailed,
    TextDelta,
    Timings,
    Usage,
)


def generate(
    model: LoadedModel, request: Generate, interrupt: CancelFlag, keep: SaveState | None = None
) -> Iterator[PrefillProgress | TextDelta | GenerationFinished]:
    """Answer `request`; of a long prompt what has been read is given to `keep` on the way.

    Raises RequestFailure if the prompt or the grammar cannot be used, or does not fit.
    """
    started = time.perf_counter()
    prompt, drafts = _prompt(model, request), model.speculation
    grammar = model.grammars.compile(request)
    with Sampler(request.sampling, model.context, model.vocabulary_size, grammar) as sampler:
        cached = model.sequence.reuse_prefix(prompt.tokens)
        yield from prefill(model, prompt, keep)
        prompt_read = time.perf_counter()
        steps = AnswerState(model, request, sampler)
        drafts.begin(prompt_read - started)
        drafted, accepted = drafts.drafted, drafts.accepted
        reason: FinishReason = "cancelled"
        first_token_s = 0.0
        if not interrupt:
            first = steps.sample_next()
            first_token_s = time.perf_counter() - started
            reason = yield from _decode(model, steps, interrupt, first)
    yield from steps.text.finish()
    said = steps.text.tokens["answer"] + steps.text.tokens["call"]
    usage = Usage(
        len(prompt.tokens), cached, steps.text.tokens["thinking"], said, len(model.sequence.tokens),
        drafts.drafted - drafted, drafts.accepted - accepted,
    )  # fmt: skip
    timings = Timings(prompt_read - started, first_token_s, time.perf_counter() - prompt_read)
    yield GenerationFinished(reason, usage, timings, steps.guard.thinking_end)


def _prompt(model: LoadedModel, request: Generate) -> Prompt:
    """The prompt, which must leave room for one token of an answer."""
    if request.tools and model.tool_call_start_token is None:
        raise RequestError(RequestFailed("setting", "the model's vocabulary has no token that starts a tool call"))
    check_size(model, request.messages)
    prompt = model.template.prompt(request.messages, think=request.enable_thinking, tools=request.tools)
    if len(prompt.tokens) >= model.sequence.size:
        raise context_overflow(model, f"{len(prompt.tokens):,}", len(prompt.tokens), seen=bool(prompt.views))
    return prompt


def _decode(
    model: LoadedModel, steps: AnswerState, interrupt: CancelFlag, token: int
) -> Generator[TextDelta, None, FinishReason]:
    """Text from the first `token` on; returns why it ended."""
    sequence, drafts, threads = model.sequence, model.speculation, model.threads.decoding
    threads.begin()
    try:
        while True:
            said, token, reason = steps.accept_token(token, has_room=len(sequence.tokens) < sequence.size)
            yield from said
            if reason is not None:
                return reason
            row = drafts.advance(token, drafts=not steps.has_forced_token)
            if interrupt:
                return "cancelled"
            token = steps.sample_next(row)
            threads.step()
    finally:
        drafts.finish()
