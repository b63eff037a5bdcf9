"""Sends events to the program, in order, from a thread of its own: text is on its way while libllama computes.

Events come in, lines go out. Nothing waits for the program to read, but who asks to. Text that comes faster than a
person can see it is joined: each piece costs both processes something, and of a small model there are thousands a
second.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from qwenctl.protocol.base import Event
from qwenctl.protocol.codec import encode
from qwenctl.protocol.messages import TextDelta

_PAUSE_S = 1 / 60  # between two pieces of text: what most screens take to show one

_Item = Event | threading.Event


class EventWriter:
    """What goes to the program by the file `descriptor`. The process ends when the program has gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._events: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._wake = threading.Event()  # something has come that is not text
        threading.Thread(target=self._serve, daemon=True).start()

    def send(self, event: Event) -> None:
        """Send `event` soon."""
        self._events.put(event)
        if not isinstance(event, TextDelta):
            self._wake.set()

    def send_and_wait(self, event: Event) -> None:
        """Send `event`, and wait until it is sent: what follows may end the process."""
        sent = threading.Event()
        self._events.put(event)
        self._events.put(sent)
        self._wake.set()
        sent.wait()

    def _serve(self) -> None:
        while True:
            events = [self._events.get()]
            self._wake.clear()
            with suppress(queue.Empty):
                while True:
                    events.append(self._events.get_nowait())
            for event in _joined(events):
                if isinstance(event, threading.Event):
                    event.set()
                else:
                    self._write(encode(event))
            if isinstance(events[-1], TextDelta):
                self._wake.wait(_PAUSE_S)

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            os._exit(0)


def _joined(events: Iterable[_Item]) -> Iterator[_Item]:
    """The same, with pieces of text that follow each other in one channel made one."""
    pieces: list[TextDelta] = []
    for event in events:
        piece = event if isinstance(event, TextDelta) else None
        if pieces and (piece is None or piece.channel != pieces[0].channel):
            yield _one(pieces)
            pieces = []
        if piece is None:
            yield event
        else:
            pieces.append(piece)
    if pieces:
        yield _one(pieces)


def _one(pieces: Sequence[TextDelta]) -> TextDelta:
    return TextDelta(
        "".join([piece.text for piece in pieces]), pieces[0].channel, sum([piece.tokens for piece in pieces])
    )
