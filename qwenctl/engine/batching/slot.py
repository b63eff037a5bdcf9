"""A request in the batch: tokenized, then answered token by token in one sequence of the context.

A request and the model come in; a `Slot` knows which tokens must be evaluated next, and what has been generated. When
that happens, and in which batch, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qwenctl.engine.batching.prefix_cache import Ints
from qwenctl.engine.generation.generate import AnswerState
from qwenctl.engine.generation.prefill import RECORD_LIMIT, check_biases, check_size, context_overflow
from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.sampling.grammar import GrammarMatcher
from qwenctl.engine.sampling.logprobs import cut_logprobs
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.engine.sampling.stop_texts import StopTexts
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.batch import RecordDone, SubmitRequest
from qwenctl.protocol.messages import FinishReason, RequestFailed, TextDelta, Timings, TokenLogprob, Usage


@dataclass(frozen=True)
class TokenizedRequest:
    """A request with a tokenized prompt; `media_items` are its images by the index of their first token.

    `thinks` says whether its answer begins with thinking.
    """

    submitted: SubmitRequest
    tokens: Ints
    grammar: GrammarMatcher | None
    media_items: Mapping[int, MediaItem] = field(default_factory=dict)
    thinks: bool = True

    @property
    def text_prefix(self) -> Ints:
        """The part of the prompt that other requests may share: everything before the first image."""
        return self.tokens[: min(self.media_items, default=len(self.tokens))]


def tokenize_request(model: LoadedModel, submitted: SubmitRequest, size: int) -> TokenizedRequest:
    """Tokenize a request, which must leave room for one token of an answer in a sequence of `size` tokens.

    Raises RequestError.
    """
    if submitted.tools and model.tool_call_start_token is None:
        raise RequestError(RequestFailed("setting", "the model's vocabulary has no token that starts a tool call"))
    if submitted.logit_bias:
        check_biases(model, submitted.request)
    check_size(model, submitted.messages, size, RECORD_LIMIT)
    prompt = model.template.render_once(
        submitted.messages,
        think=submitted.request.thinks,
        tools=submitted.tools,
        variables=submitted.template_variables,
    )
    if len(prompt.tokens) >= size:
        raise context_overflow(model, len(prompt.tokens), size, RECORD_LIMIT, has_media=bool(prompt.media_items))
    request = submitted.request
    grammar = model.grammars.compile(request) if request.is_constrained else None
    return TokenizedRequest(submitted, np.array(prompt.tokens, np.int32), grammar, prompt.media_items, prompt.thinks)


@dataclass
class Slot:
    """A request in the sequence `sequence`, of `size` tokens.

    `done` tokens of its prompt are evaluated, `cached` of them by copying a prefix. Its images save `mrope_saved`
    positions (see `kv.mrope`).
    """

    model: LoadedModel
    request: TokenizedRequest
    sequence: int
    size: int
    sampler: Sampler
    answer: AnswerState
    stops: StopTexts
    done: int = 0
    cached: int = 0
    mrope_saved: int = 0
    token: int = -1  # the token of the answer to evaluate next
    n_generated: int = 0  # evaluated tokens of the answer
    output: dict[str, list[str]] = field(default_factory=lambda: {"thinking": [], "answer": [], "call": []})
    logprobs: list[TokenLogprob] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    prefilled: float = 0.0

    @classmethod
    def start(cls, model: LoadedModel, request: TokenizedRequest, sequence: int, size: int, views: LogitsView) -> Slot:
        """Start a request."""
        asked = request.submitted.request
        sampler = Sampler(asked, views, request.grammar)
        answer = AnswerState(model, asked, sampler, thinks=request.thinks)
        return cls(model, request, sequence, size, sampler, answer, StopTexts(request.submitted.stop))

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not evaluated yet."""
        return len(self.request.tokens) - self.done

    @property
    def is_decoding(self) -> bool:
        """Whether the whole prompt is evaluated."""
        return self.left == 0

    @property
    def n_evaluated(self) -> int:
        """Evaluated tokens of the prompt and the answer."""
        return self.done + self.n_generated

    @property
    def position(self) -> int:
        """The M-RoPE position of the next token."""
        return self.n_evaluated - self.mrope_saved

    def on_logits(self, row: int) -> RecordDone | None:
        """Sample from the logits at `row`, which follow all evaluated tokens; return the answer if it is finished."""
        if not self.prefilled:
            self.prefilled = time.perf_counter()
        if self.answer.is_empty:
            return self._finished("length")
        deltas, self.token, reason = self.answer.accept_token(
            self.answer.sample_next(row), has_capacity=self.n_evaluated < self.size
        )
        self._append_output(deltas)
        return self._finished(reason) if reason or self.stops.is_found else None

    def close(self) -> None:
        """Free the sampler chain."""
        self.sampler.close()

    def _append_output(self, deltas: list[TextDelta]) -> None:
        for delta in deltas:
            self.output[delta.channel].append(delta.text)
            self.logprobs += delta.logprobs
            if delta.channel == "answer":
                self.stops.feed(delta.text)

    def _finished(self, reason: FinishReason | None) -> RecordDone:
        text = self.answer.text
        self._append_output(self.answer.finish())
        output = {channel: "".join(pieces) for channel, pieces in self.output.items()}
        if self.stops.is_found:
            output, reason = {**output, "answer": self.stops.cut(output["answer"]), "call": ""}, "stop"
        usage = Usage(
            len(self.request.tokens), self.cached, text.tokens["thinking"], text.tokens["answer"] + text.tokens["call"],
            self.n_evaluated,
        )  # fmt: skip
        now = time.perf_counter()
        prefill_s = self.prefilled - self.started
        timings = Timings(prefill_s, prefill_s, now - self.prefilled)
        return RecordDone(
            request_id=self.request.submitted.request_id,
            text=output["answer"],
            thinking=output["thinking"],
            calls=output["call"],
            reason=reason or "stop",
            usage=usage,
            timings=timings,
            thinking_end=self.answer.stop_conditions.thinking_end,
            control_offsets=text.control_offsets,
            logprobs=self._reported_logprobs(),
        )

    def _reported_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """The tokens of the answer, up to a stop text; None if the request does not ask for them."""
        if self.request.submitted.logprobs is None:
            return None
        return cut_logprobs(self.logprobs, self.stops.place) if self.stops.is_found else tuple(self.logprobs)
