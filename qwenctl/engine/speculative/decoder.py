"""Speculative decoding: several tokens are drafted, evaluated at once, and kept as far as the model says the same.

Each token of an answer comes in as it was sampled, and is evaluated, unless it is the one that was drafted in its place
and so has been evaluated already. It is sampled as it always is: from the model's own logits, with the answer's
penalties, grammar and random numbers. Therefore the answer is distributed as without drafts, at any temperature: a
draft is one fixed guess, which changes when logits are computed, and not what is sampled from them (rejection sampling,
Leviathan et al. 2023, with a draft distribution that has one token). How far to draft is decided by the controller.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qwenctl.engine.speculative.controller import DraftController, DraftStep
from qwenctl.engine.speculative.ngram import NgramLookup

if TYPE_CHECKING:  # so that the loop can be tested without libllama
    from qwenctl.engine.kv.sequence import KVSequence
    from qwenctl.engine.speculative.mtp_head import MtpDrafter

_MTP, _NGRAM = "mtp", "ngram"
_MAX_UNMEASURED_STEPS = 64
_MIN_CAPTURE_PAUSE = 8  # steps: after a pause the head waits for as many states before it drafts


@dataclass
class _PendingStep:
    """A step with drafts whose end is not known: the next tokens may be those that were drafted."""

    source: str
    drafted: int
    row: int  # of the logits of its first token: as many were replayed before it
    seconds: float
    accepted: int = 0


class SpeculativeDecoder:
    """Evaluates the tokens of answers, with at most `mtp_tokens` drafted by `head`, or `ngram_tokens` from the text."""

    def __init__(
        self,
        sequence: KVSequence,
        controller: DraftController,
        head: MtpDrafter | None,
        mtp_tokens: int,
        ngram_tokens: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sequence, self._controller, self._head, self._clock = sequence, controller, head, clock
        self._mtp_tokens, self._ngram_tokens = mtp_tokens if head else 0, ngram_tokens
        self._ngrams = NgramLookup()
        self._step: _PendingStep | None = None
        self._unmeasured_left = 0  # plain steps that need not be measured, unless the text offers a draft
        self.drafted = self.accepted = 0  # tokens of all answers
        self._update_mtp_capture()

    def begin(self, seconds: float) -> None:
        """Start an answer whose prompt took `seconds`."""
        if not (self._mtp_tokens or self._ngram_tokens):
            return
        self._ngrams.begin()
        self._unmeasured_left = 0
        self._controller.start_answer(seconds)

    def advance(self, token: int, *, drafts: bool = True) -> int:
        """Make `token` the next of the sequence; returns the row of its logits. Without `drafts` none follow it."""
        if not (self._mtp_tokens or self._ngram_tokens):
            return self._sequence.decode(token)
        if self._step and self._sequence.accept(token):
            self._step.accepted += 1
            self.accepted += 1
            return self._step.row + self._step.accepted
        has_match = self._ngram_tokens > 0 and self._track(token)
        if self._unmeasured_left and not (has_match and not self._controller.cooldown_steps(_NGRAM)):
            self._unmeasured_left -= 1
            self._controller.record_plain()
            return self._sequence.decode(token)
        return self._decode(token, drafts=drafts)

    def use_threads(self, count: int) -> None:
        """Let the model and its MTP head compute with `count` threads."""
        self._sequence.use_threads(count)
        if self._head:
            self._head.use_threads(count)

    def finish(self) -> None:
        """End the answer: the sequence then holds it and nothing else."""
        self._end_step()
        self._sequence.commit()

    def _decode(self, token: int, *, drafts: bool) -> int:
        """Evaluate `token` and what is drafted after it, and measure the time; returns the row of its logits."""
        self._end_step()
        self._update_mtp_capture()
        begin = self._clock()
        source, draft = self._draft(token) if drafts and not self._sequence.has_large_replay else ("", [])
        row = self._sequence.decode(token, draft)
        self._sequence.synchronize()  # sampling the next token would wait for it anyway
        seconds = self._clock() - begin
        if draft:
            self._step = _PendingStep(source, len(draft), row, seconds)
            self.drafted += len(draft)
            self._ngrams.stop_tracking()
            self._unmeasured_left = 0
        else:
            self._controller.record(DraftStep("", 0, 0, seconds, row))
            self._unmeasured_left = 0 if row or self._sequence.observer else self._unmeasured_steps()
        return row

    def _unmeasured_steps(self) -> int:
        """How many plain steps may follow without being measured, or the controller being asked.

        To measure one is to wait for it, while a GPU could work ahead. Drafts from the text interrupt them.
        """
        if not self._controller.knows_plain_time:
            return 0
        idle = self._controller.cooldown_steps(_MTP) if self._head else _MAX_UNMEASURED_STEPS
        return min(idle, _MAX_UNMEASURED_STEPS)

    def _track(self, token: int) -> bool:
        """Whether the text offers a draft after `token`. The controller learns how right they would have been."""
        has_match, correct = self._ngrams.track(self._sequence.tokens, token, self._ngram_tokens)
        if correct is not None:
            self._controller.record_hypothetical(_NGRAM, self._ngram_tokens, correct)
        return has_match

    def _end_step(self) -> None:
        """Take back the drafts that were not accepted, and let the controller learn from their step."""
        step, self._step = self._step, None
        if step is None:
            return
        begin = self._clock()
        self._sequence.rollback_drafts()
        seconds = step.seconds + self._clock() - begin
        self._controller.record(DraftStep(step.source, step.drafted, step.accepted, seconds, step.row))

    def _update_mtp_capture(self) -> None:
        """Have the model give out the states that its MTP head needs, but only while the head may be asked."""
        head, is_on = self._head, self._sequence.observer is not None
        if head is None:
            return
        wanted = (
            self._controller.cooldown_steps(_MTP) <= _MIN_CAPTURE_PAUSE
            if is_on
            else self._controller.may_draft(_MTP, self._mtp_tokens)
        )
        if wanted != is_on:
            head.set_capture(on=wanted)
            self._sequence.observer = head if wanted else None

    def _draft(self, token: int) -> tuple[str, list[int]]:
        """What the controller chooses to be evaluated after `token`, and its source."""
        tokens = self._sequence.tokens
        free = self._sequence.size - len(tokens) - 1
        match = self._ngrams.draft(tokens, token, min(self._ngram_tokens, free)) if self._ngram_tokens else []
        max_lengths = {_NGRAM: len(match)} if match else {}
        if self._head and self._head.is_ready:
            max_lengths[_MTP] = min(self._mtp_tokens, free)
        source, length = self._controller.choose(max_lengths)
        return source, self._head.draft(token, length) if self._head and source == _MTP else match[:length]
