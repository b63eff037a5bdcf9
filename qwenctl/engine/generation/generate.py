"""One answer: read the prompt, then sample, evaluate, and pass on text, until the model ends its turn.

A model and a request come in, events go out as they happen. What the user sees of them is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from qwenctl.engine.generation.answer_state import AnswerSteps
from qwenctl.engine.generation.prefill import Keep, check_size, read, too_long
from qwenctl.engine.llama.cancellation import Interrupt
from qwenctl.engine.model import Model
from qwenctl.engine.prompt.chat_template import Prompt
from qwenctl.engine.request_errors import RequestFailure
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.protocol.messages import Failed, Finished, FinishReason, Generate, PromptProgress, Timings, Token, Usage


def generate(
    model: Model, request: Generate, interrupt: Interrupt, keep: Keep | None = None
) -> Iterator[PromptProgress | Token | Finished]:
    """Answer `request`; of a long prompt what has been read is given to `keep` on the way.

    Raises RequestFailure if the prompt or the grammar cannot be used, or does not fit.
    """
    started = time.perf_counter()
    prompt, drafts = _prompt(model, request), model.speculation
    grammar = model.grammars.begin(request)
    with Sampler(request.sampling, model.context, model.vocabulary_size, grammar) as sampler:
        cached = model.sequence.rewind(prompt.tokens)
        yield from read(model, prompt, keep)
        prompt_read = time.perf_counter()
        steps = AnswerSteps(model, request, sampler)
        drafts.begin(prompt_read - started)
        drafted, accepted = drafts.drafted, drafts.accepted
        reason: FinishReason = "cancelled"
        first_token_s = 0.0
        if not interrupt:
            first = steps.next()
            first_token_s = time.perf_counter() - started
            reason = yield from _decode(model, steps, interrupt, first)
    yield from steps.text.finish()
    said = steps.text.tokens["answer"] + steps.text.tokens["call"]
    usage = Usage(
        len(prompt.tokens), cached, steps.text.tokens["thinking"], said, len(model.sequence.tokens),
        drafts.drafted - drafted, drafts.accepted - accepted,
    )  # fmt: skip
    timings = Timings(prompt_read - started, first_token_s, time.perf_counter() - prompt_read)
    yield Finished(reason, usage, timings, steps.guard.thinking_end)


def _prompt(model: Model, request: Generate) -> Prompt:
    """The prompt, which must leave room for one token of an answer."""
    if request.tools and model.call_begin is None:
        raise RequestFailure(Failed("setting", "the model's vocabulary has no token that begins a call"))
    check_size(model, request.messages)
    prompt = model.template.prompt(request.messages, think=request.think, tools=request.tools)
    if len(prompt.tokens) >= model.sequence.size:
        raise too_long(model, f"{len(prompt.tokens):,}", len(prompt.tokens), seen=bool(prompt.views))
    return prompt


def _decode(model: Model, steps: AnswerSteps, interrupt: Interrupt, token: int) -> Generator[Token, None, FinishReason]:
    """Text from the first `token` on; returns why it ended."""
    sequence, drafts, threads = model.sequence, model.speculation, model.threads.decoding
    threads.begin()
    try:
        while True:
            said, token, reason = steps.say(token, has_room=len(sequence.tokens) < sequence.size)
            yield from said
            if reason is not None:
                return reason
            row = drafts.add(token, drafts=not steps.is_forced)
            if interrupt:
                return "cancelled"
            token = steps.next(row)
            threads.step()
    finally:
        drafts.settle()
