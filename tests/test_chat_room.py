"""A conversation longer than the context goes on as it was asked to: stopped, cut at its beginning, or summed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.chat.build_request import AnswerLimits, request
from qwenctl.chat.context_trimming import OnFull, make_room
from qwenctl.chat.conversation import Conversation
from qwenctl.engine.client import Engine
from qwenctl.engine.interface import OpenModel
from qwenctl.errors import QwenctlError
from qwenctl.protocol.messages import EngineSettings, Loaded, Message, Token

GREEDY = {"temperature": 0.0, "presence_penalty": 0.0}
TALK = Conversation(think=False, sampling=GREEDY).with_system("You are a helpful assistant.")


@pytest.fixture
def model(toy_gguf: Path, tmp_path: Path) -> Iterator[OpenModel]:
    with Engine.start(tmp_path) as engine:
        *_, loaded = engine.load(toy_gguf, EngineSettings(context_tokens=512, threads=1))
        assert isinstance(loaded, Loaded)
        yield OpenModel(engine, loaded)


def talk(model: OpenModel, on_full: OnFull, turns: int) -> tuple[Conversation, list[str]]:
    """A conversation of many turns, and what was told on its way."""
    conversation, told = TALK, list[str]()
    for _ in range(turns):
        asked = make_room(model, conversation.with_user("What is the capital of France?"), on_full, told.append)
        events = model.engine.generate(request(asked, model.loaded, AnswerLimits(40)))
        answer = "".join(event.text for event in events if isinstance(event, Token))
        assert answer
        conversation = asked.with_answer(answer, "")
    return conversation, told


def test_by_default_it_stops_with_an_error(model: OpenModel) -> None:
    with pytest.raises(QwenctlError, match=r"prompt has \d+ tokens, context is 512"):
        talk(model, "stop", 40)


def test_the_oldest_turns_are_left_out_and_that_is_said(model: OpenModel) -> None:
    conversation, told = talk(model, "drop-oldest", 40)
    assert told
    assert all("oldest messages are not sent any more" in line for line in told)
    assert len(told) < 16  # not at every turn
    assert len(conversation.turns) == 80  # nothing is lost
    assert conversation.sent[0] == Message("system", "You are a helpful assistant.")
    assert conversation.sent[1].role == "user"


def test_the_oldest_turns_become_a_summary(model: OpenModel) -> None:
    conversation, told = talk(model, "summarize", 25)
    assert any("are summarized" in line for line in told)
    assert conversation.summary
    assert conversation.sent[0].content == (
        f"You are a helpful assistant.\n\nSummary of the earlier conversation:\n{conversation.summary}"
    )


def test_a_single_question_that_does_not_fit_is_left_alone(model: OpenModel) -> None:
    asked = TALK.with_user("word " * 500)
    assert make_room(model, asked, "drop-oldest", print) == asked


def test_to_take_back_what_is_left_out_leaves_a_conversation_that_can_go_on() -> None:
    long = TALK.with_user("1").with_answer("a", "").with_user("2").with_answer("b", "").with_user("3")
    shorter = long.without_oldest()
    assert shorter is not None
    back = shorter.undone().undone().undone()
    assert back.turns == ()
    assert back.with_user("4").sent[-1] == Message("user", "4")
