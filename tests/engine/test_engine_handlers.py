"""The worker has a handler for every message, with the types that the message declares."""

from __future__ import annotations

import typing
from typing import get_args

import pytest

from qwenctl.protocol import codec
from qwenctl.protocol.base import EngineInput, Request
from qwenctl.protocol.load import Load
from qwenctl.protocol.messages import Cancel, Close
from tests.support.own_process import late, real

HANDLERS = late("qwenctl.engine.worker:HANDLERS")
MESSAGES = list(codec._MESSAGE_CLASSES.values())


@pytest.mark.own_process
def test_worker_has_a_handler_for_every_message() -> None:
    in_serve = {Load, Cancel, Close}
    assert set(real(HANDLERS)) == {kind for kind in MESSAGES if issubclass(kind, EngineInput)} - in_serve


@pytest.mark.own_process
def test_handler_signature_matches_its_message_and_event_types() -> None:
    for kind, handler in real(HANDLERS).items():
        hints = typing.get_type_hints(handler)
        *_, taken = (hint for name, hint in hints.items() if name != "return")
        assert kind in (get_args(taken) or (taken,))
        [given_back] = get_args(hints["return"])
        events = kind.event_types() if issubclass(kind, Request) else (typing.Never,)
        assert (get_args(given_back) or (given_back,)) == events
