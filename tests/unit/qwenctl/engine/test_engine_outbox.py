"""The engine's sending thread: all of the text, in order, soon, and in few pieces where it comes fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.event_writer import EventWriter
from qwenctl.protocol.base import Event
from qwenctl.protocol.codec import decode
from qwenctl.protocol.messages import Channel, GenerationFinished, TextDelta, Timings, TokenCount, Usage

DONE = GenerationFinished("stop", Usage(), Timings())
channels: st.SearchStrategy[Channel] = st.sampled_from(["thinking", "answer", "call"])
pieces = st.builds(TextDelta, st.text(min_size=1, max_size=3), channels, st.integers(1, 3))


@pytest.fixture(scope="module")
def sender() -> Iterator[tuple[EventWriter, IO[bytes]]]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as lines:
        yield EventWriter(write_end), lines


def received(lines: IO[bytes]) -> list[object]:
    """The events up to the end of an answer."""
    events: list[object] = []
    while DONE not in events:
        events.append(decode(lines.readline(), Event))
    return events


@given(st.lists(st.one_of(pieces, st.builds(TokenCount, st.integers(0, 9))), max_size=30))
def test_joined_or_not_it_is_the_same_text_in_the_same_order(
    sender: tuple[EventWriter, IO[bytes]], events: list[TextDelta | TokenCount]
) -> None:
    outbox, lines = sender
    for event in [*events, DONE]:
        outbox.send(event)
    output: list[object] = []
    for found in received(lines):
        output += [(found.channel, character) for character in found.text] if isinstance(found, TextDelta) else [found]
    meant: list[object] = []
    for event in [*events, DONE]:
        meant += [(event.channel, character) for character in event.text] if isinstance(event, TextDelta) else [event]
    assert output == meant


@given(st.lists(pieces, min_size=1))
def test_tokens_are_counted_whether_joined_or_not(
    sender: tuple[EventWriter, IO[bytes]], tokens: list[TextDelta]
) -> None:
    outbox, lines = sender
    for event in [*tokens, DONE]:
        outbox.send(event)
    found = [event.tokens for event in received(lines) if isinstance(event, TextDelta)]
    assert sum(found) == sum(token.tokens for token in tokens)


def test_text_that_comes_fast_is_sent_in_few_pieces(sender: tuple[EventWriter, IO[bytes]]) -> None:
    outbox, lines = sender
    for _ in range(10_000):
        outbox.send(TextDelta("a", "answer"))
    outbox.send(DONE)
    found = [event for event in received(lines) if isinstance(event, TextDelta)]
    assert sum(len(token.text) for token in found) == 10_000
    assert len(found) < 1000


def test_a_piece_is_sent_though_nothing_follows(sender: tuple[EventWriter, IO[bytes]]) -> None:
    outbox, lines = sender
    for text in "ab":
        outbox.send(TextDelta(text, "answer"))
        assert decode(lines.readline(), Event) == TextDelta(text, "answer")
    outbox.send(DONE)
    assert received(lines) == [DONE]
