"""The draft controller on machines of known costs: it finds the drafts that pay, and risks little time on it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.speculative.controller import DraftController, DraftStep
from qwenctl.engine.speculative.ngram import NgramLookup

PLAIN = 0.05
SLACK = 1.03
UNMEASURED_STEPS = 64  # at most, between two timed steps


def answer(
    controller: DraftController,
    tokens: int,
    share: float,
    slope: float,
    noise: Callable[[], float] = lambda: 1.0,
    source: str = "mtp",
    most: int = 3,
) -> tuple[float, int]:
    """The seconds of an answer and tokens drafted in its last quarter; a draft is right with probability `share`."""
    draws = random.Random(tokens)
    controller.start_answer(20 * PLAIN)
    seconds, output, late, replayed = 20 * PLAIN, 0, 0, 0
    while output < tokens:
        _, length = controller.choose({source: most})
        accepted = next((at for at in range(length) if draws.random() >= share), length)
        took = PLAIN * (1 + slope * (length + replayed)) * noise()
        controller.record(DraftStep(source if length else "", length, accepted, took, replayed))
        replayed = 1 + accepted if accepted < length else 0
        seconds, output = seconds + took, output + 1 + accepted
        late += length if output > tokens * 3 // 4 else 0
        idle = controller.cooldown_steps(source) if controller.knows_plain_time and not (length or replayed) else 0
        for _ in range(min(idle, UNMEASURED_STEPS, max(0, tokens - output))):
            controller.record_plain()
            seconds, output = seconds + PLAIN * noise(), output + 1
    return seconds, late


def seconds_without_drafts(tokens: int) -> float:
    return (20 + tokens) * PLAIN


@given(share=st.floats(0, 1), slope=st.floats(0, 1.4), tokens=st.integers(50, 2000))
def test_answer_with_drafts_takes_at_most_three_percent_longer(share: float, slope: float, tokens: int) -> None:
    controller = DraftController()
    first, _ = answer(controller, tokens, share, slope)
    assert first <= seconds_without_drafts(tokens) * SLACK
    second, _ = answer(controller, tokens, share, slope)
    assert second <= seconds_without_drafts(tokens) * SLACK


@pytest.mark.parametrize(("share", "slope"), [(0.88, 0.15), (0.75, 0.25), (0.95, 0.5)])
def test_drafts_that_pay_reach_most_of_possible_gain(share: float, slope: float) -> None:
    seconds, _ = answer(DraftController(), 2000, share, slope)
    assert seconds <= seconds_without_drafts(2000) / max(gain(share, slope, length) for length in range(4)) * 1.15


def gain(share: float, slope: float, length: int) -> float:
    """Tokens per time of a plain step; the accepted part of a wrong draft is evaluated a second time."""
    tokens = sum(share**place for place in range(length + 1))
    again = sum(share**place * (1 - share) * (1 + place) for place in range(length))
    return tokens / (1 + slope * (length + again))


def test_drafts_never_accepted_stop_soon() -> None:
    _, late = answer(DraftController(), 2000, 0.0, 0.4)
    assert late <= 10


def test_drafts_that_cost_too_much_stop_soon() -> None:
    _, late = answer(DraftController(), 2000, 0.8, 1.2)
    assert late <= 10


def test_draft_source_that_stops_paying_is_paused_and_resumed() -> None:
    controller = DraftController()
    assert answer(controller, 1000, 0.9, 0.2)[1] > 200
    assert answer(controller, 2000, 0.05, 0.2)[1] <= 20
    assert answer(controller, 4000, 0.9, 0.2)[1] > 500


def test_slow_steps_do_not_stop_drafts_that_pay() -> None:
    draws = random.Random(1)

    def noise() -> float:
        return 8.0 if draws.random() < 0.05 else draws.uniform(0.9, 1.1)

    assert answer(DraftController(), 3000, 0.9, 0.2, noise)[1] > 300


def test_draft_source_that_pays_is_chosen() -> None:
    controller = DraftController()
    controller.start_answer(1.0)
    taken = []
    for _ in range(400):
        source, length = controller.choose({"mtp": 3, "ngram": 12})
        good = source == "ngram"
        controller.record(DraftStep(source, length, length if good else 0, PLAIN * (1 + 0.1 * length)))
        taken.append((source, length))
    assert taken[-30:].count(("ngram", 12)) >= 28


def test_copied_text_is_soon_drafted_in_long_pieces() -> None:
    """Costs as measured on a CPU for a mixture-of-experts model that copies text."""
    controller = DraftController()
    controller.start_answer(20 * PLAIN)
    seconds, output, lengths = 0.0, 0, []
    while output < 400:
        _, length = controller.choose({"ngram": 16})
        took = PLAIN * (1.4 + 0.45 * length if length else 1)
        controller.record(DraftStep("ngram", length, length, took))
        seconds, output = seconds + took, output + 1 + length
        lengths.append(length)
    assert 16 in lengths
    assert seconds < 0.85 * 400 * PLAIN


def test_min_length_is_drafted_without_measurements() -> None:
    controller = DraftController(min_length=2)
    controller.start_answer(0.0)
    assert controller.choose({"mtp": 2}) == ("mtp", 2)
    assert controller.choose({"mtp": 0}) == ("", 0)


@given(
    text=st.lists(st.integers(0, 3), max_size=60),
    more=st.lists(st.integers(0, 3), max_size=20),
    next_token=st.integers(0, 3),
)
def test_ngram_draft_repeats_text_after_last_match(text: list[int], more: list[int], next_token: int) -> None:
    drafts = NgramLookup()
    drafts.draft(text, next_token, 8)
    whole = [*text, *more]
    has_match, _ = drafts.track(whole, next_token, 8)
    found = drafts.draft(whole, next_token, 8)
    assert has_match == bool(found)
    key = (*whole[-2:], next_token)
    places = [at for at in range(3, len(whole)) if tuple(whole[at - 3 : at]) == key]
    if not found:
        assert not places or len(key) < 3
    else:
        assert whole[places[-1] : places[-1] + len(found)] == found


@given(text=st.lists(st.integers(0, 2), max_size=80), most=st.integers(1, 6))
def test_ngram_tracking_ends_where_draft_would(text: list[int], most: int) -> None:
    drafts, begun, wanted, seen = NgramLookup(), None, [], []
    for at, token in enumerate(text):
        if begun is not None:
            place, count = begun
            right = text[place + count] == token
            begun = (place, count + 1) if right else None
            if not right or count + 1 == most:
                wanted.append(count + right)
                begun = None
        if begun is None:
            key = (*text[max(0, at - 2) : at], token)
            places = [end for end in range(3, at) if tuple(text[end - 3 : end]) == key]
            begun = (places[-1], 0) if places and len(key) == 3 else None
        has_match, ended = drafts.track(text[:at], token, most)
        assert has_match == (begun is not None)
        seen += [] if ended is None else [ended]
    assert seen == wanted


def test_ngram_source_tracked_as_right_is_drafted_from_small_budget() -> None:
    """Nothing was drafted before and the budget is small: hypothetical drafts alone are enough to begin."""
    controller = DraftController()
    controller.start_answer(0.0)
    for _ in range(60):
        controller.record_plain(PLAIN)
    assert controller.choose({"ngram": 16}) == ("", 0)
    for _ in range(20):
        controller.record_hypothetical("ngram", 16, 16)
    source, length = controller.choose({"ngram": 16})
    assert source == "ngram"
    assert length > 1


def test_cooldown_ends_when_tracked_draft_is_right_throughout() -> None:
    controller = DraftController()
    answer(controller, 1000, 0.0, 0.4, source="ngram", most=16)
    assert controller.cooldown_steps("ngram") > 0
    controller.record_hypothetical("ngram", 16, 3)
    assert controller.cooldown_steps("ngram") > 0
    controller.record_hypothetical("ngram", 16, 16)
    assert controller.cooldown_steps("ngram") == 0


def test_drafts_that_never_pay_are_rarely_probed_again() -> None:
    controller = DraftController()
    answer(controller, 2000, 1.0, 4.0)
    tried = []
    for _ in range(4):
        controller.start_answer(20 * PLAIN)
        tried.append(0)
        for _ in range(1000):
            source, length = controller.choose({"mtp": 3})
            controller.record(DraftStep(source, length, length, PLAIN * (1 + 4.0 * length)))
            tried[-1] += length > 0
    assert sum(tried) <= 1
