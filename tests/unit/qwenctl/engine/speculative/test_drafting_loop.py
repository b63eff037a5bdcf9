"""The speculative decoding loop with the real draft controller, a scripted model, and a machine of known costs."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.speculative.controller import DraftController
from qwenctl.engine.speculative.decoder import SpeculativeDecoder

PLAIN = 0.05
PROMPT_S = 20 * PLAIN
SLACK = 1.03


class ScriptedSequence:
    """Stands in for `KVSequence`, and as its own observer for `MtpDrafter`; the model generates `text`.

    Each extra token lengthens a step by `slope` plain steps; a drafted token is right with probability `acceptance`.
    """

    size, has_large_replay = 1 << 20, False

    def __init__(self, text: Sequence[int], acceptance: float, slope: float) -> None:
        self.text, self.acceptance, self.slope = text, acceptance, slope
        self.draws = random.Random(len(text))
        self.observer: object | None = None
        self.is_ready = True
        self.clear()

    def clear(self) -> None:
        self.tokens: list[int] = []
        self.drafts: list[int] = []
        self.replay: list[int] = []
        self.since_fork: list[int] = []
        self.seconds, self.n_synchronized = PROMPT_S, 0

    def decode(self, token: int, drafts: Sequence[int] = ()) -> int:
        assert self.drafts == self.since_fork == []
        assert token == self.text[len(self.tokens)]
        row, fed = len(self.replay), [*self.replay, token, *drafts]
        self.seconds += PLAIN * (1 + self.slope * (len(fed) - 1))
        self.since_fork, self.replay = fed[: row + 1] if drafts else [], []
        self.tokens.append(token)
        self.drafts = list(drafts)
        return row

    def synchronize(self) -> None:
        self.n_synchronized += 1

    def accept(self, token: int) -> bool:
        if not self.drafts or self.drafts[0] != token:
            return False
        self.tokens.append(self.drafts.pop(0))
        self.since_fork.append(token)
        return True

    def rollback_drafts(self) -> None:
        self.replay = self.since_fork if self.drafts else self.replay
        self.drafts, self.since_fork = [], []

    def commit(self) -> None:
        self.rollback_drafts()

    def set_capture(self, *, on: bool) -> None:
        pass

    def draft(self, _next_token: int, length: int) -> list[int]:
        upcoming = self.text[len(self.tokens) + 1 :][:length]
        return [token if self.draws.random() < self.acceptance else token + 1 for token in upcoming]


def make_loop(sequence: ScriptedSequence, *, has_head: bool) -> SpeculativeDecoder:
    head = sequence if has_head else None
    return SpeculativeDecoder(sequence, DraftController(), head, 3, 16, lambda: sequence.seconds)  # type: ignore[arg-type]


def answer(loop: SpeculativeDecoder, sequence: ScriptedSequence) -> float:
    """The time of an answer, prompt included, relative to the time without drafts."""
    sequence.clear()
    loop.begin(PROMPT_S)
    for token in sequence.text:
        loop.advance(token)
    loop.finish()
    assert sequence.tokens == list(sequence.text)
    return sequence.seconds / (PROMPT_S + PLAIN * len(sequence.text))


def random_text(length: int) -> list[int]:
    draws = random.Random(length)
    return [draws.randrange(10**5) for _ in range(length)]


@given(acceptance=st.floats(0, 1), slope=st.floats(0, 1.4), length=st.integers(100, 1000))
def test_mtp_head_costs_answer_at_most_three_percent(acceptance: float, slope: float, length: int) -> None:
    sequence = ScriptedSequence(random_text(length), acceptance, slope)
    loop = make_loop(sequence, has_head=True)
    for _ in range(2):
        assert answer(loop, sequence) <= SLACK


@given(words=st.integers(2, 6), slope=st.floats(0, 1.4), length=st.integers(100, 1000))
def test_ngram_drafts_of_random_text_cost_answer_at_most_three_percent(words: int, slope: float, length: int) -> None:
    """With so few words, a repeated n-gram is often followed by another word than before."""
    draws = random.Random(length)
    sequence = ScriptedSequence([draws.randrange(words) for _ in range(length)], 0.0, slope)
    loop = make_loop(sequence, has_head=False)
    for _ in range(2):
        assert answer(loop, sequence) <= SLACK


@pytest.mark.parametrize(("slope", "at_most"), [(0.1, 0.3), (0.45, 0.65)])
def test_copied_text_is_soon_drafted(slope: float, at_most: float) -> None:
    sequence = ScriptedSequence(random_text(40) * 20, 0.0, slope)
    assert answer(make_loop(sequence, has_head=False), sequence) <= at_most


@pytest.mark.parametrize(("slope", "at_most"), [(0.1, 0.6), (0.3, 0.9)])
def test_mtp_head_that_is_right_speeds_up_answer(slope: float, at_most: float) -> None:
    sequence = ScriptedSequence(random_text(1000), 0.9, slope)
    loop = make_loop(sequence, has_head=True)
    answer(loop, sequence)
    assert answer(loop, sequence) <= at_most


@pytest.mark.parametrize("has_head", [False, True])
def test_plain_steps_are_mostly_not_synchronized(*, has_head: bool) -> None:
    sequence = ScriptedSequence(random_text(2000), 0.0, 0.5)
    loop = make_loop(sequence, has_head=has_head)
    answer(loop, sequence)
    answer(loop, sequence)
    assert sequence.n_synchronized < 0.05 * len(sequence.text)


def test_copied_text_is_drafted_while_mtp_head_cools_down() -> None:
    """An n-gram match ends the run of unmeasured steps at once."""
    sequence = ScriptedSequence(random_text(1000), 0.0, 0.1)
    loop = make_loop(sequence, has_head=True)
    answer(loop, sequence)
    sequence.text = random_text(40) * 20
    assert answer(loop, sequence) <= 0.35


def test_better_draft_source_is_tried_while_another_pays() -> None:
    draws = random.Random(5)
    sequence = ScriptedSequence([draws.randrange(2) for _ in range(600)], 0.9, 0.05)
    loop = make_loop(sequence, has_head=True)
    answer(loop, sequence)
    assert answer(loop, sequence) <= 0.5
