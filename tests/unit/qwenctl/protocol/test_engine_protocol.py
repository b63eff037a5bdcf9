"""Engine messages come out of the pipe as they went in, and anything else is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine import client
from qwenctl.protocol import codec
from qwenctl.protocol import messages as protocol
from qwenctl.protocol.base import EngineInput, Event, Notification, Reply, Request
from qwenctl.protocol.batch import BatchEvent, BatchRequest, SubmitRequest
from qwenctl.protocol.codec import decode, encode
from qwenctl.protocol.load import Load, TemplateOverride
from qwenctl.protocol.messages import Generate, RequestFailed, TextDelta, ToolCall

MESSAGES = list(codec._MESSAGE_CLASSES.values())
REQUESTS = [kind for kind in MESSAGES if issubclass(kind, Request)]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
st.register_type_strategy(ToolCall, st.builds(ToolCall, st.text(), OBJECTS))
st.register_type_strategy(TemplateOverride, st.builds(TemplateOverride, st.text(), OBJECTS))


def instances_of(kind: Any) -> st.SearchStrategy[EngineInput | Event]:
    names = {field.name for field in dataclasses.fields(kind)}
    json_fields = {"tools": st.lists(OBJECTS, max_size=2).map(tuple), "template_variables": OBJECTS}
    given_fields = {name: values for name, values in json_fields.items() if name in names}
    return st.builds(kind, **{**dict.fromkeys(names, ...), **given_fields})


def base_of(message: EngineInput | Event) -> Any:
    """The union type to decode it as: an input of the engine, or one of its events."""
    return EngineInput if isinstance(message, EngineInput) else Event


@given(st.one_of(map(instances_of, MESSAGES)))
def test_message_round_trips_through_codec(message: EngineInput | Event) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert repr(decode(line, base_of(message))) == repr(message)  # by repr, because NaN does not equal itself


def test_non_utf8_path_round_trips_through_codec() -> None:
    message = Load(b"/models/\xff.gguf".decode("utf-8", "surrogateescape"))
    assert decode(encode(message), Load) == message


@given(st.binary() | st.text().map(str.encode))
def test_random_bytes_are_refused_with_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message of the engine's protocol"):
        decode(line, EngineInput)


@given(JSON | st.tuples(st.sampled_from([kind.__name__ for kind in MESSAGES]) | st.text(), JSON | OBJECTS))
def test_random_json_is_decoded_whole_or_refused(value: object) -> None:
    try:
        message = decode(json.dumps(value).encode(), Event)
    except ValueError as error:
        assert str(error).startswith("not a message of the engine's protocol: ")  # noqa: PT017 - some are messages
    else:
        assert repr(decode(encode(message), Event)) == repr(message)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('["Ask", {}]', "no EngineInput is called 'Ask'"),
        ('[["Count"], {}]', "unhashable type"),
        ('["Stats", {}, 1]', "too many values"),
        ('["TokenCount", {"tokens": 1}]', "no EngineInput is called 'TokenCount'"),
        ('["Count", {}]', "Object missing required field `text`"),
        ('["Count", {"text": 1}]', "Expected `str`, got `int` - at `$.text`"),
        ('["Count", {"text": "a", "txt": "b"}]', "Count has no field 'txt'"),
        (
            '["Load", {"path": "a", "settings": {"threads": "2"}}]',
            "Expected `int`, got `str` - at `$.settings.threads`",
        ),
        ('["Load", {"path": "a", "settings": {"placement": {"device": []}}}]', "Placement has no field 'device'"),
        ('["Generate", {"messages": [{"role": "user", "content": "a", "at": 1}]}]', "Message has no field 'at'"),
    ],
)
def test_bad_message_error_names_reason(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match="not a message of the engine's protocol") as caught:
        decode(line.encode(), EngineInput)
    assert reason in str(caught.value)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_type_is_frozen_dataclass(kind: Any) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen


def test_codec_knows_every_message_type() -> None:
    bases = {EngineInput, Event, Notification, Reply, Request, BatchEvent, BatchRequest}
    found, new = set[type](), {EngineInput, Event}
    while new:
        found |= new
        new = {sub for kind in new for sub in kind.__subclasses__()} - found
    assert {kind for kind in found - bases if kind.__module__.startswith("qwenctl.")} == set(MESSAGES)


@pytest.mark.parametrize("kind", REQUESTS)
def test_request_event_types_end_with_only_reply(kind: type[Request[Any]]) -> None:
    assert [event for event in kind.event_types() if issubclass(event, Reply)] == [kind.event_types()[-1]]
    assert set(kind.event_types()) <= set(MESSAGES)


def test_request_declares_its_event_types() -> None:
    assert Generate.event_types() == (protocol.PrefillProgress, TextDelta, protocol.GenerationFinished)
    assert protocol.CountPrompt.event_types() == (protocol.TokenCount,)


def test_submit_request_converts_to_generate_request() -> None:
    record = SubmitRequest(1, (protocol.Message("user", "Hi"),), enable_thinking=False, max_tokens=3)
    assert record.request == Generate(record.messages, enable_thinking=False, max_tokens=3)


def test_every_failure_kind_has_exit_code() -> None:
    kinds = next(field.type for field in dataclasses.fields(RequestFailed) if field.name == "kind")
    assert set(get_args(eval(str(kinds), vars(protocol)))) == set(client._FAILURE_CODES)  # noqa: S307 - our own source
