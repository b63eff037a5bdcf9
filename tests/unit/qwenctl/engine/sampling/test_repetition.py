"""The repetition detector reports a loop at the very token that completes it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.sampling.stop_conditions import LONGEST_PERIOD, MIN_LOOP_TOKENS, RepetitionDetector
from tests.support.loops import first_alarm


@given(st.lists(st.integers(0, 1000), max_size=300), st.integers(1, LONGEST_PERIOD), st.integers(0, 2**32))
def test_loop_is_detected_after_three_rounds_and_minimum_length(before: list[int], period: int, seed: int) -> None:
    draw = random.Random(seed)
    span = [draw.randrange(1001, 250_000) for _ in range(period)]
    for least in MIN_LOOP_TOKENS.values():
        needed = max(3 * period, least)
        assert first_alarm(before + span * (needed // period + 1), least) == len(before) + needed


@st.composite
def repetitive(draw: st.DrawFn) -> list[int]:
    """Repeated spans, some with one changed token, and other tokens in between."""
    tokens: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        span = draw(st.lists(st.integers(0, 2), min_size=1, max_size=24))
        output = span * draw(st.integers(1, 60 // len(span) + 2))
        if draw(st.booleans()):
            output[draw(st.integers(0, len(output) - 1))] = 3
        tokens += output + draw(st.lists(st.integers(0, 9), max_size=5))
    return tokens


def is_loop(tokens: list[int], least_tokens: int) -> bool:
    """The definition: the last tokens repeat a period three times or more, and are `least_tokens` or more in all."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // 3) + 1):
        rounds = max(3 * period, least_tokens)
        end = tokens[-rounds:]
        if len(end) == rounds and end[period:] == end[:-period]:
            return True
    return False


@given(repetitive())
def test_loop_is_detected_at_token_that_completes_it(tokens: list[int]) -> None:
    detector, least = RepetitionDetector(MIN_LOOP_TOKENS["thinking"]), MIN_LOOP_TOKENS["thinking"]
    for count, token in enumerate(tokens, 1):
        assert detector.observe(token) == is_loop(tokens[:count], least)
