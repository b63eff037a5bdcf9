"""The streaming detokenizer: whole characters, thinking separate from the answer, and no byte lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import TextDelta

END = 256  # the token that closes the thinking; all others are single bytes
BYTES = {token: bytes([token]) for token in range(256)}


def detokenize(data: bytes, *, thinking: bool) -> list[TextDelta]:
    """The text events for an answer of these bytes; the byte 0xff stands for the token that ends the thinking."""
    text = StreamingDetokenizer(BYTES, END, thinking=thinking)
    output = [token for byte in data for token in text.feed(END if byte == 0xFF else byte)]
    assert sum(text.tokens.values()) == len(data)
    return output + text.finish()


def joined(output: list[TextDelta], channel: str) -> str:
    return "".join(token.text for token in output if token.channel == channel)


@given(st.text(), st.text())
def test_thinking_and_answer_are_separated_without_loss(thought: str, answer: str) -> None:
    output = detokenize(f"\n{thought}\n".encode() + b"\xff\n\n" + answer.encode(), thinking=True)
    assert joined(output, "thinking") == thought.strip()
    assert joined(output, "answer") == answer.lstrip()


@given(st.text())
def test_output_without_thinking_is_all_answer(answer: str) -> None:
    assert joined(detokenize(answer.encode(), thinking=False), "answer") == answer.lstrip()


@given(st.binary())
def test_invalid_utf8_becomes_replacement_characters(data: bytes) -> None:
    data = data.replace(b"\xff", b"\xfe")
    assert joined(detokenize(data, thinking=False), "answer") == data.decode("utf-8", "replace").lstrip()


@given(st.text())
def test_every_piece_is_at_least_one_whole_character(answer: str) -> None:
    assert all(token.text and token.text.encode() for token in detokenize(answer.encode(), thinking=False))


def test_unfinished_thinking_gives_no_answer() -> None:
    output = detokenize("hm … ".encode()[:-2], thinking=True)
    assert (joined(output, "thinking"), joined(output, "answer")) == ("hm \N{REPLACEMENT CHARACTER}", "")


@given(st.lists(st.sampled_from([257, 258, *b"<tool_call>", *"é".encode()]), max_size=30))
def test_control_tokens_of_calls_are_told_from_text_that_spells_them(tokens: list[int]) -> None:
    names = {**BYTES, 257: b"<tool_call>", 258: b"</tool_call>"}
    text = StreamingDetokenizer(names, None, thinking=False, tool_call_start=257)
    calls = joined([event for token in [257, *tokens] for event in text.feed(token)], "call")
    offsets = text.control_offsets
    assert offsets is not None
    assert len(offsets) == 1 + sum(token > 256 for token in tokens)
    assert all(calls.startswith(("<tool_call>", "</tool_call>"), offset) for offset in offsets)
