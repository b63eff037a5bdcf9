"""Generates one answer: prefill the prompt, then sample, evaluate and emit text until the model ends its turn.

A model and a request come in, events go out as they happen. How they are displayed is not known here.
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
    model: LoadedModel, request: Generate, interrupt: CancelFlag, save_state: SaveState | None = None
) -> Iterator[PrefillProgress | TextDelta | GenerationFinished]:
    """Generate the answer to `request`; `save_state` receives the state on the way through a long prompt.

    Raises RequestError if the prompt or the grammar cannot be used, or the prompt does not fit.
    """
    started = time.perf_counter()
    prompt, drafts = _prompt(model, request), model.speculation
    grammar = model.grammars.compile(request)
    with Sampler(request.sampling, model.context, model.vocabulary_size, grammar) as sampler:
        cached = model.sequence.reuse_prefix(prompt.tokens)
        yield from prefill(model, prompt, save_state)
        prefilled = time.perf_counter()
        answer = AnswerState(model, request, sampler)
        drafts.begin(prefilled - started)
        drafted, accepted = drafts.drafted, drafts.accepted
        reason: FinishReason = "cancelled"
        first_token_s = 0.0
        if not interrupt:
            first = answer.sample_next()
            first_token_s = time.perf_counter() - started
            reason = yield from _decode(model, answer, interrupt, first)
    yield from answer.text.finish()
    n_answer_tokens = answer.text.tokens["answer"] + answer.text.tokens["call"]
    usage = Usage(
        len(prompt.tokens), cached, answer.text.tokens["thinking"], n_answer_tokens, len(model.sequence.tokens),
        drafts.drafted - drafted, drafts.accepted - accepted,
    )  # fmt: skip
    timings = Timings(prefilled - started, first_token_s, time.perf_counter() - prefilled)
    yield GenerationFinished(reason, usage, timings, answer.stop_conditions.thinking_end)


def _prompt(model: LoadedModel, request: Generate) -> Prompt:
    """The tokenized prompt; the context must have room for one more token. Raises RequestError."""
    if request.tools and model.tool_call_start_token is None:
        raise RequestError(RequestFailed("setting", "the model's vocabulary has no token that starts a tool call"))
    check_size(model, request.messages, model.sequence.size)
    prompt = model.template.prompt(request.messages, think=request.enable_thinking, tools=request.tools)
    if len(prompt.tokens) >= model.sequence.size:
        raise context_overflow(model, len(prompt.tokens), model.sequence.size, has_media=bool(prompt.media_items))
    return prompt


def _decode(
    model: LoadedModel, answer: AnswerState, interrupt: CancelFlag, token: int
) -> Generator[TextDelta, None, FinishReason]:
    """Yield text from the first `token` on; return the finish reason."""
    sequence, drafts, threads = model.sequence, model.speculation, model.threads.decoding
    threads.begin()
    try:
        while True:
            deltas, token, reason = answer.accept_token(token, has_capacity=len(sequence.tokens) < sequence.size)
            yield from deltas
            if reason is not None:
                return reason
            row = drafts.advance(token, drafts=not answer.has_forced_token)
            if interrupt:
                return "cancelled"
            token = answer.sample_next(row)
            threads.step()
    finally:
        drafts.finish()
