"""Generates one answer: prefill the prompt, then sample, evaluate and emit text until the model ends its turn.

A model and a request come in, events go out as they happen. How they are displayed is not known here. `AnswerState` has
the part that does not evaluate, so that answers in a batch share it: the text of each token, the tokens that are
forced, and the reason to stop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from qwenctl.engine.generation.prefill import SaveState, check_biases, check_size, context_overflow, prefill
from qwenctl.engine.llama.callbacks import CancelFlag
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.prompt.chat_template import Prompt
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.engine.sampling.logprobs import LogprobRecorder
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.engine.sampling.stop_conditions import StopConditions
from qwenctl.protocol.messages import (
    Channel,
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
    grammar = model.grammars.compile(request) if request.is_constrained else None
    with closing(Sampler(request, model.logits, grammar)) as sampler:
        cached = model.sequence.reuse_prefix(prompt.tokens)
        yield from prefill(model, prompt, save_state)
        prefilled = time.perf_counter()
        answer = AnswerState(model, request, sampler, thinks=prompt.thinks)
        drafts.begin(prefilled - started)
        drafted, accepted = drafts.drafted, drafts.accepted
        reason: FinishReason = "cancelled"
        first_token_s = 0.0
        if answer.is_empty:
            reason = "length"
        elif not interrupt:
            first = answer.sample_next()
            first_token_s = time.perf_counter() - started
            reason = yield from _decode(model, answer, interrupt, first)
    yield from answer.finish()
    n_answer_tokens = answer.text.tokens["answer"] + answer.text.tokens["call"]
    usage = Usage(
        len(prompt.tokens), cached, answer.text.tokens["thinking"], n_answer_tokens, len(model.sequence.tokens),
        drafts.drafted - drafted, drafts.accepted - accepted,
    )  # fmt: skip
    timings = Timings(prefilled - started, first_token_s, time.perf_counter() - prefilled)
    yield GenerationFinished(reason, usage, timings, answer.stop_conditions.thinking_end, answer.text.control_offsets)


def _prompt(model: LoadedModel, request: Generate) -> Prompt:
    """The tokenized prompt; the context must have room for one more token. Raises RequestError."""
    if request.tools and model.tool_call_start_token is None:
        raise RequestError(RequestFailed("setting", "the model's vocabulary has no token that starts a tool call"))
    if request.logit_bias:
        check_biases(model, request)
    check_size(model, request.messages, model.sequence.size)
    prompt = model.template.prompt(
        request.messages, think=request.thinks, tools=request.tools, variables=request.template_variables
    )
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
            row = drafts.advance(token, drafts=not answer.forced)
            if interrupt:
                return "cancelled"
            token = answer.sample_next(row)
            threads.step()
    finally:
        drafts.finish()


class AnswerState:
    """One answer: `text` splits it into channels, `stop_conditions` ends it, `sampler` samples its tokens."""

    def __init__(self, model: LoadedModel, request: Generate, sampler: Sampler, *, thinks: bool) -> None:
        self._model, self._sampler, self._constrained = model, sampler, request.is_constrained
        self._n_left = request.max_tokens
        self.is_empty = request.max_tokens == 0  # no token may be generated
        self.forced = deque[int]()  # the next tokens, whatever the logits say
        self.stop_conditions = StopConditions(model.forced_think_end_tokens, request.think_budget)
        # A grammar applies from the end of the thinking on, so a tool call must not start before that.
        self.text = StreamingDetokenizer(
            model.token_bytes,
            model.think_end_token,
            thinking=thinks,
            tool_call_start=model.tool_call_start_token if request.tools else None,
            in_thinking=not request.is_constrained,
        )
        self._logprobs = (
            LogprobRecorder(request.logprobs, model.token_bytes, model.tokenizer.token_name)
            if request.logprobs is not None
            else None
        )

    def sample_next(self, row: int = -1) -> int:
        """The next token: a forced one, or sampled from the logits of row `row` of the last batch."""
        if self.forced:
            return self.forced.popleft()
        token = self._sampler.sample(unconstrained=self.text.channel == "thinking", row=row)
        if self._logprobs is not None and self.text.channel == "answer":
            self._logprobs.observe(self._sampler.model_logits, token)
        return token

    def accept_token(self, token: int, *, has_capacity: bool) -> tuple[list[TextDelta], int, FinishReason | None]:
        """Add `token`; return the text it completes, the token to evaluate, and the finish reason if the answer ends.

        `has_capacity` says whether the context has room for another token. The token to evaluate differs from `token`
        where the model ends its turn while thinking: then the thinking is closed instead.
        """
        channel = self.text.channel
        if self._model.eog_tokens[token]:
            if channel != "thinking":
                return [], token, "stop"
            self.forced.extend(self._model.think_end_tokens)  # the turn ended in the thinking, without an answer
            token = self.forced.popleft()
        deltas = self.text.feed(token)
        if self._logprobs is not None:
            deltas = self._logprobs.attach(deltas, in_answer=self.text.channel == "answer")
        self._n_left -= 1
        return deltas, token, self._finish_reason(channel, token, has_capacity)

    def finish(self) -> list[TextDelta]:
        """The remaining text: an incomplete character as U+FFFD."""
        deltas = self.text.finish()
        return self._logprobs.attach(deltas, in_answer=False) if self._logprobs is not None else deltas

    def _finish_reason(self, channel: Channel, token: int, has_capacity: bool) -> FinishReason | None:
        if self._n_left == 0:
            return "length"
        if not has_capacity:
            return "context"
        if not self.forced:
            if self.stop_conditions.is_repeating(channel, token):
                return "loop"
            if channel == "thinking":  # nothing is ever forced in an answer
                self.forced.extend(self._next_forced_tokens())
        return None

    def _next_forced_tokens(self) -> Sequence[int]:
        """The tokens that must follow a token of the thinking; usually none."""
        if self.text.channel == "answer" and self._constrained:
            return self._model.post_think_tokens  # white space that the model expects, but no grammar allows
        return self.stop_conditions.forced_tokens(self.text)
