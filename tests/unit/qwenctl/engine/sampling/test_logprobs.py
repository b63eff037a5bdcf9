"""Log probabilities are those of the model's distribution, and belong to the tokens that the answer consists of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.engine.sampling.logprobs import LogprobRecorder, cut_logprobs, decode_tokens, most_likely
from qwenctl.protocol.messages import TextDelta, TokenLogprob

# Whole words, white space, parts of characters (of é, 日 and an emoji), bytes that are no text, and a control token.
PIECES = [
    b"Hi",
    b" there",
    b"\n\n",
    b" ",
    b"\xc3",
    b"\xa9",
    b"\xe6\x97",
    b"\xa5",
    b"\xf0\x9f",
    b"\x99\x82",
    b"\xff",
    b"x",
]
THINK_END, CALL, NAMED = len(PIECES), len(PIECES) + 1, len(PIECES) + 2
BYTES = dict(enumerate([*PIECES, b"</think>", b"<tool_call>", b""]))
VOCABULARY = len(BYTES)
TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=20)


def recorded(tokens: list[int], *, thinking: bool) -> list[TextDelta]:
    """The text of an answer with its tokens, as the engine makes it."""
    text = StreamingDetokenizer(BYTES, THINK_END, thinking=thinking, tool_call_start=CALL)
    recorder = LogprobRecorder(1, BYTES, lambda token: f"<{token}>")
    deltas = []
    for token in tokens:
        if text.channel == "answer":
            recorder.observe(np.zeros(VOCABULARY, np.float32), token)
        deltas += recorder.attach(text.feed(token), in_answer=text.channel == "answer")
    return deltas + recorder.attach(text.finish(), in_answer=False)


@given(TOKENS, TOKENS, st.booleans(), st.booleans())
def test_tokens_of_an_answer_are_its_text_without_thinking_and_calls(
    thought: list[int], answer: list[int], thinks: bool, calls: bool
) -> None:
    tokens = [*thought, THINK_END, *answer] if thinks else answer
    deltas = recorded([*tokens, *([CALL, 0, 11] if calls else [])], thinking=thinks)
    content = "".join(delta.text for delta in deltas if delta.channel == "answer")
    found = [one for delta in deltas for one in delta.logprobs]
    assert all(delta.channel == "answer" for delta in deltas if delta.logprobs)
    data = b"".join(bytes(one.bytes or ()) for one in found)
    assert data.decode("utf-8", "replace").lstrip() == content
    assert all(one.logprob == pytest.approx(-math.log(VOCABULARY), abs=1e-6) for one in found)


@given(TOKENS, st.integers(0, 30))
def test_tokens_of_an_answer_that_is_cut_are_those_that_begin_before_the_cut(tokens: list[int], place: int) -> None:
    entries = [one for delta in recorded(tokens, thinking=False) for one in delta.logprobs]
    content = "".join(delta.text for delta in recorded(tokens, thinking=False))
    cut = cut_logprobs(entries, place)
    assert cut == tuple(entries[: len(cut)])
    before, after = ("".join(decode_tokens(part)) for part in (cut[:-1], cut))
    assert not cut or len(before.lstrip()) < place
    assert cut == tuple(entries) or len(after.lstrip()) >= place
    assert place < len(content) or cut == tuple(entries)


@given(st.lists(st.floats(-20, 20, width=16), min_size=1, max_size=30), st.integers(0, 20))
def test_most_likely_tokens_are_those_of_a_full_sort(values: list[float], count: int) -> None:
    logits = np.array(values, np.float32)
    assert most_likely(logits, count) == sorted(range(len(values)), key=lambda token: (-values[token], token))[:count]


@given(st.lists(st.floats(-50, 50, width=32), min_size=VOCABULARY, max_size=VOCABULARY), st.integers(0, 20))
def test_probabilities_are_the_softmax_of_the_logits(values: list[float], count: int) -> None:
    recorder = LogprobRecorder(count, BYTES, lambda token: f"<{token}>")
    recorder.observe(np.array(values, np.float32), 0)
    [delta] = recorder.attach([TextDelta("Hi", "answer")], in_answer=True)
    [one] = delta.logprobs
    total = math.log(math.fsum(math.exp(value) for value in values))
    assert one.logprob == pytest.approx(values[0] - total, abs=1e-4)
    assert [other.logprob for other in one.top_logprobs] == pytest.approx(
        sorted((value - total for value in values), reverse=True)[:count], abs=1e-4
    )


def test_control_token_has_a_name_and_no_bytes_and_part_of_a_character_has_bytes() -> None:
    recorder = LogprobRecorder(VOCABULARY, BYTES, {NAMED: "<|im_end|>"}.__getitem__)
    recorder.observe(np.zeros(VOCABULARY, np.float32), 6)
    [delta] = recorder.attach([TextDelta("日", "answer")], in_answer=True)
    [one] = delta.logprobs
    assert (one.token, one.bytes) == ("\ufffd", (0xE6, 0x97))
    assert TokenLogprob("<|im_end|>", one.logprob, None) in one.top_logprobs
