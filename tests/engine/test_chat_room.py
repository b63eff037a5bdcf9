"""A conversation longer than the context goes on as it was asked to: stopped, cut at its beginning, or summed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.chat.build_request import AnswerLimits, request
from qwenctl.chat.context_trimming import ContextFullPolicy, trim_context
from qwenctl.chat.conversation import Conversation
from qwenctl.engine.client import Engine
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import QwenctlError
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.protocol.messages import Message, TextDelta

GREEDY = {"temperature": 0.0, "presence_penalty": 0.0}
TALK = Conversation(think=False, sampling=GREEDY).with_system("You are a helpful assistant.")


@pytest.fixture
def model(toy_gguf: Path, tmp_path: Path) -> Iterator[LoadedEngine]:
    with Engine.start(tmp_path) as engine:
        *_, loaded = engine.load(toy_gguf, LoadParams(context_tokens=512, threads=1))
        assert isinstance(loaded, ModelInfo)
        yield LoadedEngine(engine, loaded)


def talk(model: LoadedEngine, on_full: ContextFullPolicy, turns: int) -> tuple[Conversation, list[str]]:
    """A conversation of many turns, and what was told on its way."""
    conversation, told = TALK, list[str]()
    for _ in range(turns):
        asked = trim_context(model, conversation.with_user("What is the capital of France?"), on_full, told.append)
        events = model.engine.generate(request(asked, model.loaded, AnswerLimits(40)))
        answer = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert answer
        conversation = asked.with_answer(answer, "")
    return conversation, told


def test_by_default_it_stops_with_an_error(model: LoadedEngine) -> None:
    with pytest.raises(QwenctlError, match=r"prompt has \d+ tokens, context is 512"):
        talk(model, "stop", 40)


def test_the_oldest_turns_are_left_out_and_that_is_said(model: LoadedEngine) -> None:
    conversation, told = talk(model, "drop-oldest", 40)
    assert told
    assert all("oldest messages are no longer sent" in line for line in told)
    assert len(told) < 16  # not at every turn
    assert len(conversation.turns) == 80  # nothing is lost
    assert conversation.prompt_messages[0] == Message("system", "You are a helpful assistant.")
    assert conversation.prompt_messages[1].role == "user"


def test_the_oldest_turns_become_a_summary(model: LoadedEngine) -> None:
    conversation, told = talk(model, "summarize", 25)
    assert any("are summarized" in line for line in told)
    assert conversation.summary
    assert conversation.prompt_messages[0].content == (
        f"You are a helpful assistant.\n\nSummary of the earlier conversation:\n{conversation.summary}"
    )


def test_a_single_question_that_does_not_fit_is_left_alone(model: LoadedEngine) -> None:
    asked = TALK.with_user("word " * 500)
    assert trim_context(model, asked, "drop-oldest", print) == asked


def test_to_take_back_what_is_left_out_leaves_a_conversation_that_can_go_on() -> None:
    long = TALK.with_user("1").with_answer("a", "").with_user("2").with_answer("b", "").with_user("3")
    shorter = long.without_oldest()
    assert shorter is not None
    back = shorter.without_last_turn().without_last_turn().without_last_turn()
    assert back.turns == ()
    assert back.with_user("4").prompt_messages[-1] == Message("user", "4")
