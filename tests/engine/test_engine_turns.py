"""No text is evaluated twice: turns continue from snapshots, with the answers of a full evaluation."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.engine.client import Engine
from qwenctl.protocol.messages import (
    Generate,
    Message,
    PrefillProgress,
)
from tests.support.engines import Start
from tests.support.turns import GREEDY, QUESTIONS, SYSTEM, Reply, ask, tokens_of, with_turn


def wait_for_read_ahead(engine: Engine, messages: tuple[Message, ...]) -> None:
    """Wait until the whole prefix is evaluated. (Every request interrupts this, a request for statistics too.)"""
    held = -1
    while held != (held := engine.stats().context_used):
        engine.warm_prefix(messages, enable_thinking=True)
        time.sleep(0.5)


@pytest.mark.parametrize("think", [True, False])
def test_turn_evaluates_only_the_last_answer_and_the_new_question(start: Start, think: bool) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)
    messages: tuple[Message, ...] = (SYSTEM,)
    for number, question in enumerate(QUESTIONS):
        asked = (*messages, Message("user", question))
        reply, reference = ask(engine, asked, think=think), ask(uncached, asked, think=think)
        assert reply.message == reference.message
        assert reference.usage.cached_tokens == 0
        if number:
            new = tokens_of(uncached, messages[-1].content) + tokens_of(uncached, question)
            assert reply.evaluated <= new < reply.usage.prompt_tokens
        messages = with_turn(messages, question, reply)


def test_prefix_evaluated_ahead_is_not_evaluated_again(start: Start) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)
    messages: tuple[Message, ...] = ()
    for question in QUESTIONS:
        asked = (*messages, Message("user", question))
        reply = ask(engine, asked)
        assert reply.message == ask(uncached, asked).message
        if messages:
            assert reply.evaluated <= tokens_of(uncached, question)
        messages = with_turn(messages, question, reply)
        wait_for_read_ahead(engine, messages)


def test_regenerated_answer_evaluates_almost_no_tokens(start: Start) -> None:
    engine = start()
    asked = (SYSTEM, Message("user", QUESTIONS[1]))
    first = ask(engine, asked)
    again = ask(engine, asked)
    assert again.message == first.message
    assert again.evaluated <= 4


def test_edited_last_question_reuses_the_earlier_turns(start: Start) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)
    before = with_turn((SYSTEM,), QUESTIONS[0], ask(engine, (SYSTEM, Message("user", QUESTIONS[0]))))
    ask(engine, (*before, Message("user", QUESTIONS[1])))
    edited = (*before, Message("user", QUESTIONS[2]))
    reply = ask(engine, edited)
    assert reply.message == ask(uncached, edited).message
    assert reply.message.content == "Your name is Linus."
    assert reply.evaluated <= tokens_of(uncached, before[-1].content) + tokens_of(uncached, QUESTIONS[2])


def test_new_conversation_reuses_the_system_prompt(start: Start) -> None:
    engine = start()
    long = Message("system", "You are a helpful assistant. " * 20)
    ask(engine, (long, Message("user", QUESTIONS[0])))
    reply = ask(engine, (long, Message("user", QUESTIONS[1])))
    assert reply.evaluated <= tokens_of(start(), QUESTIONS[1])
    assert reply.message.content == "The capital of France is Paris."


def test_oldest_snapshots_except_the_root_are_evicted(start: Start) -> None:
    probe = start()
    ask(probe, (SYSTEM, Message("user", QUESTIONS[0])))
    stats = probe.stats()
    each = stats.snapshot_bytes // stats.snapshots
    engine, messages = start(snapshot_bytes=3 * each), (SYSTEM,)
    for question in QUESTIONS:
        messages = with_turn(messages, question, ask(engine, (*messages, Message("user", question))))
    assert (engine.stats().snapshots, engine.stats().snapshot_bytes) == (3, 3 * each)
    another = ask(engine, (SYSTEM, Message("user", QUESTIONS[1])))
    assert another.usage.cached_tokens > 0
    assert another.message.content == "The capital of France is Paris."


def test_cancelled_prefill_resumes_to_the_same_answer(start: Start) -> None:
    engine, uncached = start(batch_tokens=16), start(snapshot_bytes=0)
    messages: tuple[Message, ...] = (SYSTEM,)
    for question in QUESTIONS[:3]:
        messages = with_turn(messages, question, ask(uncached, (*messages, Message("user", question))))
    asked = (*messages, Message("user", QUESTIONS[3]))
    for event in engine.generate(Generate(asked, True, GREEDY)):
        if isinstance(event, PrefillProgress) and event.done > 60:
            engine.cancel()
    assert engine.stats().context_used > 0
    reply = ask(engine, asked)
    assert reply.message == ask(uncached, asked).message


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """A user's actions: ask, regenerate, undo, edit an earlier question, start over."""
    actions = st.sampled_from(["ask", "ask", "ask", "again", "undo", "edit", "clear"])
    return draw(st.lists(st.tuples(actions, st.integers(0, len(QUESTIONS) - 1)), min_size=3, max_size=10))


def test_answers_after_any_history_equal_those_without_snapshots(start: Start) -> None:
    engine, uncached = start(), start(snapshot_bytes=0)

    @settings(max_examples=25)
    @given(histories(), st.booleans())
    def check(history: list[tuple[str, int]], think: bool) -> None:
        turns: list[tuple[str, Reply]] = []
        for action, number in history:
            saved, question = _apply_action(turns, action, QUESTIONS[number], number)
            messages: tuple[Message, ...] = (SYSTEM,)
            for asked, reply in saved:
                messages = with_turn(messages, asked, reply)
            reply = ask(engine, (*messages, Message("user", question)), think=think)
            reference = ask(uncached, (*messages, Message("user", question)), think=think)
            assert replace(reply, usage=reference.usage) == reference
            turns = [*saved, (question, reply)]
            engine.warm_prefix(with_turn(messages, question, reply), enable_thinking=think)

    check()


def _apply_action(
    turns: list[tuple[str, Reply]], action: str, question: str, number: int
) -> tuple[list[tuple[str, Reply]], str]:
    """The turns that remain after an action, and the question that follows them."""
    match action:
        case "again" if turns:
            return turns[:-1], turns[-1][0]
        case "undo":
            return turns[:-1], question
        case "edit":
            return turns[: number % (len(turns) + 1)], question
        case "clear":
            return [], question
    return turns, question
