"""A conversation longer than the context is stopped, loses its oldest turns, or is summarized, as configured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.chat.build_request import AnswerLimits, build_request
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
    """A conversation of `turns` turns, and the notices shown along the way."""
    conversation, notices = TALK, list[str]()
    for _ in range(turns):
        asked = trim_context(model, conversation.with_user("What is the capital of France?"), on_full, notices.append)
        events = model.engine.generate(build_request(asked, model.loaded, AnswerLimits(40)))
        answer = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert answer
        conversation = asked.with_answer(answer, "")
    return conversation, notices


def test_full_context_stops_with_an_error_by_default(model: LoadedEngine) -> None:
    with pytest.raises(QwenctlError, match=r"prompt has \d+ tokens, context is 512"):
        talk(model, "stop", 40)


def test_oldest_turns_are_dropped_with_a_notice(model: LoadedEngine) -> None:
    conversation, notices = talk(model, "drop-oldest", 40)
    assert notices
    assert all("oldest messages are no longer sent" in line for line in notices)
    assert len(notices) < 16  # not at every turn
    assert len(conversation.turns) == 80  # nothing is lost
    assert conversation.prompt_messages[0] == Message("system", "You are a helpful assistant.")
    assert conversation.prompt_messages[1].role == "user"


def test_oldest_turns_are_replaced_by_a_summary(model: LoadedEngine) -> None:
    conversation, notices = talk(model, "summarize", 25)
    assert any("are summarized" in line for line in notices)
    assert conversation.summary
    assert conversation.prompt_messages[0].content == (
        f"You are a helpful assistant.\n\nSummary of the earlier conversation:\n{conversation.summary}"
    )


def test_single_oversized_question_is_not_trimmed(model: LoadedEngine) -> None:
    asked = TALK.with_user("word " * 500)
    assert trim_context(model, asked, "drop-oldest", print) == asked


def test_undo_of_dropped_turns_leaves_a_usable_conversation() -> None:
    long = TALK.with_user("1").with_answer("a", "").with_user("2").with_answer("b", "").with_user("3")
    shorter = long.without_oldest()
    assert shorter is not None
    back = shorter.without_last_turn().without_last_turn().without_last_turn()
    assert back.turns == ()
    assert back.with_user("4").prompt_messages[-1] == Message("user", "4")
