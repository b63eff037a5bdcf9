"""Speculative decoding: several tokens are drafted, evaluated at once, and kept as far as the model says the same.

Each token of an answer comes in as it was drawn, and is evaluated, unless it is the one that was drafted in its place
and so has been evaluated already. It is drawn as it always is: from the model's own logits, with the answer's
penalties, grammar and random numbers. Therefore the answer is distributed as without drafts, at any temperature: a
draft is one fixed guess, which changes when logits are computed, and not what is drawn from them (rejection sampling,
Leviathan et al. 2023, with a draft distribution that has one token). How far to draft is the governor's choice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama

from qwenctl.engine.kv.sequence import MAX_REPLAY_TOKENS, KVSequence
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.speculative.controller import DraftController, DraftStep
from qwenctl.engine.speculative.mtp_head import LONGEST_BATCH, MtpDrafter
from qwenctl.engine.speculative.ngram import NgramLookup
from qwenctl.models.context_memory import DRAFT_HEAD_TOKENS
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import RequestFailed


class SpeculativeDecoder:
    """The drafts of a model: at most `head_tokens` of its `head`, if it has one, and `ngram_tokens` of the text."""

    def __init__(
        self,
        sequence: KVSequence,
        governor: DraftController,
        head: MtpDrafter | None,
        head_tokens: int,
        ngram_tokens: int,
    ) -> None:
        self._sequence, self._governor, self._head = sequence, governor, head
        self._head_tokens, self._ngram_tokens = head_tokens if head else 0, ngram_tokens
        self._ngrams = NgramLookup()
        self._source, self._seconds = "", 0.0
        self._row = 0
        self._quiet = self._passed = 0  # steps in which the governor need not be asked, and how many of them are done
        self._no_copies = 0  # the first of them, in which it would not have text copied either
        self._drafted = self._accepted = 0  # of the step that is under way
        self.drafted = self.accepted = 0  # of all
        self._update_mtp_capture()

    def begin(self, seconds: float) -> None:
        """A new answer, whose prompt took `seconds` to read."""
        self._ngrams.begin()
        self._governor.start_answer(seconds)

    def advance(self, token: int, *, drafts: bool = True) -> int:
        """Make `token` the next of the sequence; the row of its logits. Without `drafts`, none are made after it."""
        if not (self._head_tokens or self._ngram_tokens):
            return self._sequence.decode(token)
        if self._drafted and self._sequence.accept(token):
            self._accepted += 1
            self.accepted += 1
            return self._row + self._accepted
        is_foretold = self._ngram_tokens > 0 and self._follow(token)
        if self._passed < self._quiet and not (is_foretold and self._passed >= self._no_copies):
            self._passed += 1
            return self._sequence.decode(token)
        self._end_step()
        self._update_mtp_capture()
        began = time.perf_counter()
        guesses = self._draft(token) if drafts and not self._sequence.has_large_replay else []
        self._row = self._sequence.decode(token, guesses)
        self._sequence.synchronize()  # who draws the next token would do so at once
        self._seconds = time.perf_counter() - began
        self._drafted, self._accepted = len(guesses), 0
        self.drafted += len(guesses)
        if guesses:
            self._ngrams.stop_tracking()
        plain = not guesses and not self._row and self._sequence.listener is None
        self._quiet = self._governor.unmeasured_steps("mtp" if self._head else "") if plain else 0
        self._no_copies = self._governor.cooldown_steps("ngram")
        return self._row

    def _follow(self, token: int) -> bool:
        """Whether there is text that may follow `token`. The governor is told how true such text has come before."""
        is_foretold, right = self._ngrams.track(self._sequence.tokens, token, self._ngram_tokens)
        if right is not None and self._governor.record_hypothetical("ngram", self._ngram_tokens, right):
            self._no_copies = 0
        return is_foretold

    def use_threads(self, count: int) -> None:
        """Let the head compute with so many threads."""
        if self._head:
            self._head.use_threads(count)

    def finish(self) -> None:
        """End the answer: the sequence then holds it and nothing else."""
        self._end_step()
        self._sequence.commit()

    def _end_step(self) -> None:
        """Take back what was drafted in vain, and let the governor learn from the step, and from quiet ones."""
        if self._passed:
            self._governor.record_unmeasured(self._passed)
        self._quiet = self._passed = 0
        if not self._seconds:
            return
        if not self._drafted and not self._row:
            self._governor.record_plain(self._seconds)
            self._seconds = 0.0
            return
        began = time.perf_counter()
        self._sequence.rollback_drafts()
        seconds = self._seconds + time.perf_counter() - began
        self._governor.record(DraftStep(self._source, self._drafted, self._accepted, seconds, self._row))
        self._source, self._seconds = "", 0.0

    def _update_mtp_capture(self) -> None:
        """Spare the model what only its head needs, while the head is left alone."""
        head, listens = self._head, self._sequence.listener is not None
        if head is None:
            return
        wanted = (
            not self._governor.cooldown_steps("mtp") if listens else self._governor.may_draft("mtp", self._head_tokens)
        )
        if wanted != listens:
            head.set_capture(on=wanted)
            self._sequence.listener = head if wanted else None

    def _draft(self, token: int) -> list[int]:
        held = self._sequence.tokens
        room = self._sequence.size - len(held) - 1
        copied = self._ngrams.draft(held, token, min(self._ngram_tokens, room)) if self._ngram_tokens else []
        possible = {"ngram": len(copied)} if copied else {}
        if self._head and self._head.is_ready:
            possible["mtp"] = min(self._head_tokens, room)
        self._source, length = self._governor.choose(possible)
        if self._source == "mtp" and self._head:
            return self._head.draft(token, length)
        return copied[:length]


# The head was trained to guess one token, and each further one, from its own guess, is worse; copied text is long.
_HEAD_TOKENS, _NGRAM_TOKENS = 3, 16
_SEQUENCES = 2  # what is held, and what was held before a draft


@dataclass(frozen=True)
class DraftLimits:
    """The most tokens of one draft, by source: of the model's head, and of the text so far."""

    head: int = 0
    ngram: int = 0

    @property
    def longest(self) -> int:
        """Of any source."""
        return max(self.head, self.ngram)


def needs_mtp(settings: LoadParams) -> bool:
    """Whether the tensors of the draft head are to be loaded, if there are any."""
    return settings.draft in ("auto", "mtp")


def draft_limits(settings: LoadParams, model: llama.llama_model_p, n_batch: int) -> DraftLimits:
    """What may be drafted. Raises RequestFailure for a head that the model does not have."""
    has_head = llama.llama_model_n_layer_nextn(model) > 0
    if settings.draft == "mtp" and not has_head:
        hint = "--draft ngram drafts from the text, --draft off not at all"
        raise RequestError(RequestFailed("setting", "the model has no draft head (multi-token-prediction block)", hint))
    most = max(0, n_batch - 1 - MAX_REPLAY_TOKENS)
    head = min(settings.draft_max or _HEAD_TOKENS, most) if has_head and needs_mtp(settings) else 0
    ngram = min(settings.draft_max or _NGRAM_TOKENS, most) if settings.draft in ("auto", "ngram") else 0
    return DraftLimits(head, ngram)


def reserve_draft_outputs(params: Any, limits: DraftLimits) -> None:
    """Set the fields of the model's context (llama_context_params): logits of each draft, and a second sequence."""
    if limits.longest:
        params.n_outputs_max = max(_SEQUENCES, limits.longest + 1)
        params.n_seq_max, params.kv_unified = _SEQUENCES, True


def mtp_context_params(params: Any, context: llama.llama_context_p) -> Any:
    """Make of the parameters of the model's context those of its head's."""
    params.ctx_type, params.ctx_other = llama.LLAMA_CONTEXT_TYPE_MTP, context
    params.n_ctx, params.n_seq_max, params.n_outputs_max = DRAFT_HEAD_TOKENS, 1, 1
    params.n_batch = params.n_ubatch = LONGEST_BATCH
    return params


def make_decoder(
    model: llama.llama_model_p,
    context: llama.llama_context_p,
    sequence: KVSequence,
    limits: DraftLimits,
    params: Any,
    shortest: int,
) -> SpeculativeDecoder:
    """The drafts of a model; `params` are those of its `context`. Raises RequestFailure."""
    head = None
    if limits.head:
        own = llama.llama_init_from_model(model, mtp_context_params(params, context))
        if own is None:
            hint = "--draft ngram needs no memory for it"
            raise RequestError(RequestFailed("memory", "cannot make a context for the draft head", hint))
        vocabulary_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        head = MtpDrafter(context, own, llama.llama_model_n_embd_out(model), vocabulary_size)
    return SpeculativeDecoder(sequence, DraftController(min(shortest, limits.longest)), head, limits.head, limits.ngram)
