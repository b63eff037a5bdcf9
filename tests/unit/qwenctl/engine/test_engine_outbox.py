"""The engine's event writer: it sends all text in order, without delay, and fast text in few pieces."""

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
def event_writer() -> Iterator[tuple[EventWriter, IO[bytes]]]:
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
def test_event_writer_joining_pieces_keeps_text_and_order(
    event_writer: tuple[EventWriter, IO[bytes]], events: list[TextDelta | TokenCount]
) -> None:
    writer, lines = event_writer
    for event in [*events, DONE]:
        writer.send(event)
    output: list[object] = []
    for found in received(lines):
        output += [(found.channel, character) for character in found.text] if isinstance(found, TextDelta) else [found]
    expected: list[object] = []
    for event in [*events, DONE]:
        expected += (
            [(event.channel, character) for character in event.text] if isinstance(event, TextDelta) else [event]
        )
    assert output == expected


@given(st.lists(pieces, min_size=1))
def test_event_writer_joining_pieces_keeps_token_count(
    event_writer: tuple[EventWriter, IO[bytes]], tokens: list[TextDelta]
) -> None:
    writer, lines = event_writer
    for event in [*tokens, DONE]:
        writer.send(event)
    found = [event.tokens for event in received(lines) if isinstance(event, TextDelta)]
    assert sum(found) == sum(token.tokens for token in tokens)


def test_event_writer_sends_fast_text_in_few_pieces(event_writer: tuple[EventWriter, IO[bytes]]) -> None:
    writer, lines = event_writer
    for _ in range(10_000):
        writer.send(TextDelta("a", "answer"))
    writer.send(DONE)
    found = [event for event in received(lines) if isinstance(event, TextDelta)]
    assert sum(len(token.text) for token in found) == 10_000
    assert len(found) < 1000


def test_event_writer_sends_piece_without_waiting_for_next(event_writer: tuple[EventWriter, IO[bytes]]) -> None:
    writer, lines = event_writer
    for text in "ab":
        writer.send(TextDelta(text, "answer"))
        assert decode(lines.readline(), Event) == TextDelta(text, "answer")
    writer.send(DONE)
    assert received(lines) == [DONE]
