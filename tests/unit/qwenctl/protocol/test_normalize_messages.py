"""A message list is taken however a client makes it, by one rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.protocol.messages import Message, ToolCall
from qwenctl.protocol.normalize_messages import is_continued, normalize_messages

CALLS = st.lists(st.just(ToolCall("f", {})), max_size=1).map(tuple)
MESSAGE = st.builds(Message, st.sampled_from(["system", "user", "tool"]), st.text(max_size=3)) | st.builds(
    Message, st.just("assistant"), st.text(max_size=3), st.text(max_size=2), CALLS
)
USER, SYSTEM = Message("user", "Hi"), Message("system", "Be brief.")


@given(st.lists(MESSAGE, max_size=6))
def test_every_list_becomes_one_that_templates_take(given_messages: list[Message]) -> None:
    messages = normalize_messages(given_messages)
    roles = [message.role for message in messages]
    assert "user" in roles
    assert "system" not in roles[1:]
    assert normalize_messages(messages) == messages
    sent = [message for message in given_messages if message.role != "system"]
    turns = [message for message in messages if message.role != "system"]
    assert [one for one in sent if one.role == "user"] == [one for one in turns if one.role == "user"] or turns[
        0
    ] == Message("user", "")
    words = [one.content for one in given_messages if one.role == "system" and one.content.strip()]
    assert all(word in messages[0].content for word in words)


@given(st.lists(MESSAGE, max_size=6))
def test_usual_list_stays_as_it_is(turns: list[Message]) -> None:
    usual = (SYSTEM, *(turn for turn in turns if turn.role != "system"), USER)
    assert normalize_messages(usual) == usual


def test_system_messages_are_joined_at_the_beginning() -> None:
    late = [SYSTEM, USER, Message("assistant", "Hi."), Message("system", "In French."), USER]
    joined = Message("system", "Be brief.\n\nIn French.")
    assert normalize_messages(late) == (joined, USER, Message("assistant", "Hi."), USER)


def test_list_without_a_question_gets_an_empty_one() -> None:
    assert normalize_messages([SYSTEM]) == (SYSTEM, Message("user", ""))
    assert normalize_messages([]) == (Message("user", ""),)


def test_answer_at_the_end_is_continued_unless_it_is_empty() -> None:
    begun = [USER, Message("assistant", "Once")]
    assert is_continued(normalize_messages(begun))
    assert normalize_messages([USER, Message("assistant", " ")]) == (USER,)
    assert is_continued(normalize_messages([USER, Message("assistant", "", "Let me")]))
