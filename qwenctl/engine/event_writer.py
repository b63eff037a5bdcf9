"""Sends events to the program, in order, from its own thread, so that writing overlaps with libllama's computation.

Events come in, lines go out. `send` never blocks; `send_and_wait` returns when the event has been written. Text that
comes faster than a screen can show it is joined: each event costs both processes time, and a small model generates
thousands of tokens per second.
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

_PAUSE_S = 1 / 60  # between two text events: the time most screens take to show one

_Item = Event | threading.Event


class EventWriter:
    """Writes events to the file descriptor `descriptor`. The process exits when the other end is closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._events: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._wake = threading.Event()  # an event other than text has arrived
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
            # Take everything that is queued, to join the text in it.
            with suppress(queue.Empty):
                while True:
                    events.append(self._events.get_nowait())
            for event in _coalesce(events):
                if isinstance(event, threading.Event):
                    event.set()
                else:
                    self._write(encode(event))
            # Pause only after text, and only until an event arrives that is not text.
            if isinstance(events[-1], TextDelta):
                self._wake.wait(_PAUSE_S)

    def _write(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            os._exit(0)


def _coalesce(events: Iterable[_Item]) -> Iterator[_Item]:
    """The same events, with consecutive text of one channel merged into one event."""
    deltas: list[TextDelta] = []
    for event in events:
        delta = event if isinstance(event, TextDelta) else None
        if deltas and (delta is None or delta.channel != deltas[0].channel):
            yield _merge(deltas)
            deltas = []
        if delta is None:
            yield event
        else:
            deltas.append(delta)
    if deltas:
        yield _merge(deltas)


def _merge(deltas: Sequence[TextDelta]) -> TextDelta:
    return TextDelta(
        "".join([piece.text for piece in deltas]),
        deltas[0].channel,
        sum([piece.tokens for piece in deltas]),
        tuple([one for piece in deltas for one in piece.logprobs]),
    )
