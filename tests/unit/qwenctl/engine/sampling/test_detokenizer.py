"""Bytes of tokens become text: whole characters, thinking apart from the answer, no byte lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import TextDelta

END = 256  # the token that closes the thinking; all others are single bytes
BYTES = {token: bytes([token]) for token in range(256)}


def told(data: bytes, *, thinking: bool) -> list[TextDelta]:
    """What an answer of these bytes says; the byte 0xff stands for the end of the thinking."""
    text = StreamingDetokenizer(BYTES, END, thinking=thinking)
    output = [token for byte in data for token in text.feed(END if byte == 0xFF else byte)]
    assert sum(text.tokens.values()) == len(data)
    return output + text.finish()


def joined(output: list[TextDelta], channel: str) -> str:
    return "".join(token.text for token in output if token.channel == channel)


@given(st.text(), st.text())
def test_thinking_and_answer_come_out_whole_and_apart(thought: str, answer: str) -> None:
    output = told(f"\n{thought}\n".encode() + b"\xff\n\n" + answer.encode(), thinking=True)
    assert joined(output, "thinking") == thought.strip()
    assert joined(output, "answer") == answer.lstrip()


@given(st.text())
def test_without_thinking_all_of_it_is_the_answer(answer: str) -> None:
    assert joined(told(answer.encode(), thinking=False), "answer") == answer.lstrip()


@given(st.binary())
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes) -> None:
    data = data.replace(b"\xff", b"\xfe")
    assert joined(told(data, thinking=False), "answer") == data.decode("utf-8", "replace").lstrip()


@given(st.text())
def test_every_piece_is_at_least_one_whole_character(answer: str) -> None:
    assert all(token.text and token.text.encode() for token in told(answer.encode(), thinking=False))


def test_a_thought_that_never_ends_is_no_answer() -> None:
    output = told("hm … ".encode()[:-2], thinking=True)
    assert (joined(output, "thinking"), joined(output, "answer")) == ("hm \N{REPLACEMENT CHARACTER}", "")
