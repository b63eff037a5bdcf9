"""A record on its way through the engine: read, then answered token by token in one sequence of the context.

A record's request and the model come in; a `Slot` knows what of it must be evaluated next, and what has been said. When
that happens, and beside whom, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qwenctl.engine.batching.prefix_cache import Ints
from qwenctl.engine.generation.answer_state import AnswerState
from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.sampling.grammar import GrammarMatcher
from qwenctl.engine.sampling.sampler import Sampler
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.batch import RecordDone, SubmitRequest
from qwenctl.protocol.messages import FinishReason, RequestFailed, TextDelta, Timings, Usage


@dataclass(frozen=True)
class TokenizedRequest:
    """A record whose prompt is known in tokens; `views` are the pictures in it, by their first token."""

    record: SubmitRequest
    tokens: Ints
    grammar: GrammarMatcher | None
    views: Mapping[int, MediaItem] = field(default_factory=dict)

    @property
    def text_prefix(self) -> Ints:
        """The beginning that other records may have in common: up to the first picture."""
        return self.tokens[: min(self.views, default=len(self.tokens))]


def read_record(model: LoadedModel, record: SubmitRequest, size: int) -> TokenizedRequest:
    """Make the prompt, which must leave room for one token of an answer in a sequence of `size` tokens.

    Raises RequestFailure.
    """
    if record.tools and model.tool_call_start_token is None:
        raise RequestError(RequestFailed("setting", "the model's vocabulary has no token that starts a tool call"))
    n_bytes = sum(len(message.content.encode("utf-8", "replace")) for message in record.messages)
    fewest = n_bytes // model.tokenizer.longest_token_bytes
    if fewest >= size:  # said at once, where the tokenizer would take minutes over what cannot fit
        raise _too_long(f"more than {fewest:,}", size, fewest)
    prompt = model.template.render_once(record.messages, think=record.think, tools=record.tools)
    if len(prompt.tokens) >= size:
        raise _too_long(f"{len(prompt.tokens):,}", size, len(prompt.tokens))
    grammar = model.grammars.compile(record.request)
    return TokenizedRequest(record, np.array(prompt.tokens, np.int32), grammar, prompt.views)


def _too_long(count: str, size: int, n_tokens: int) -> RequestError:
    hint = f"-c {1 << n_tokens.bit_length()} makes room for it"
    return RequestError(RequestFailed("context", f"prompt has {count} tokens, a record can have {size:,}", hint))


@dataclass
class Slot:
    """A record in the sequence `sequence`; `done` of its prompt's tokens are evaluated, `cached` of them by a copy.

    Its pictures save `folded` positions (see `folds`).
    """

    model: LoadedModel
    request: TokenizedRequest
    sequence: int
    size: int
    sampler: Sampler
    steps: AnswerState
    done: int = 0
    cached: int = 0
    mrope_saved: int = 0
    token: int = -1  # to be evaluated next, once the prompt is
    n_generated: int = 0  # tokens of the answer that are evaluated
    output: dict[str, list[str]] = field(default_factory=lambda: {"thinking": [], "answer": [], "call": []})
    started: float = field(default_factory=time.perf_counter)
    prompt_read: float = 0.0

    @classmethod
    def begin(cls, model: LoadedModel, read: TokenizedRequest, sequence: int, size: int, views: LogitsView) -> Slot:
        """Start on a record."""
        sampling = read.record.sampling
        sampler = Sampler(sampling, views.context, model.vocabulary_size, read.grammar, views)
        return cls(model, read, sequence, size, sampler, AnswerState(model, read.record.request, sampler))

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not evaluated yet."""
        return len(self.request.tokens) - self.done

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is read."""
        return self.left == 0

    @property
    def n_evaluated(self) -> int:
        """Tokens that are evaluated."""
        return self.done + self.n_generated

    @property
    def position(self) -> int:
        """Of the next token."""
        return self.n_evaluated - self.mrope_saved

    def on_logits(self, row: int) -> RecordDone | None:
        """Go on by the logits at `row`, those after all that is evaluated; the whole answer, if it is at its end."""
        if not self.prompt_read:
            self.prompt_read = time.perf_counter()
        said, self.token, reason = self.steps.accept_token(
            self.steps.sample_next(row), has_room=self.n_evaluated < self.size
        )
        self._keep(said)
        return self._finished(reason) if reason else None

    def close(self) -> None:
        """Free the chain of samplers."""
        self.sampler.close()

    def _keep(self, pieces: list[TextDelta]) -> None:
        for piece in pieces:
            self.output[piece.channel].append(piece.text)

    def _finished(self, reason: FinishReason) -> RecordDone:
        text = self.steps.text
        self._keep(text.finish())
        said = {channel: "".join(pieces) for channel, pieces in self.output.items()}
        usage = Usage(
            len(self.request.tokens), self.cached, text.tokens["thinking"], text.tokens["answer"] + text.tokens["call"],
            self.n_evaluated,
        )  # fmt: skip
        now = time.perf_counter()
        reading = self.prompt_read - self.started
        timings = Timings(reading, reading, now - self.prompt_read)
        return RecordDone(
            self.request.record.number, said["answer"], said["thinking"], said["call"], reason, usage, timings,
            self.steps.guard.thinking_end,
        )  # fmt: skip
