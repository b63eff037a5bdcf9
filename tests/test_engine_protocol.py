"""The messages of the engine come out of the pipe as they went in."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine import client
from qwenctl.protocol import messages as protocol
from qwenctl.protocol.batch import BatchMessage
from qwenctl.protocol.codec import decode, encode
from qwenctl.protocol.messages import AnyMessage, RequestFailed, ToolCall

MESSAGES = [one for union in get_args(AnyMessage | BatchMessage) for one in (get_args(union) or [union])]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
st.register_type_strategy(ToolCall, st.builds(ToolCall, st.text(), OBJECTS))


def made_of(kind: Any) -> st.SearchStrategy[AnyMessage | BatchMessage]:
    names = {field.name for field in dataclasses.fields(kind)}
    tools = {"tools": st.lists(OBJECTS, max_size=2).map(tuple)} if "tools" in names else {}
    return st.builds(kind, **{**dict.fromkeys(names, ...), **tools})


@given(st.one_of(map(made_of, MESSAGES)))
def test_every_message_comes_out_as_it_went_in(message: AnyMessage | BatchMessage) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert repr(decode(line)) == repr(message)  # where not-a-number equals itself


@given(st.binary() | st.text().map(str.encode))
def test_anything_else_is_refused_with_one_kind_of_error(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message of the engine's protocol"):
        decode(line)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_is_frozen(kind: Any) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen


def test_every_kind_of_failure_has_an_exit_code() -> None:
    kinds = next(field.type for field in dataclasses.fields(RequestFailed) if field.name == "kind")
    assert set(get_args(eval(str(kinds), vars(protocol)))) == set(client._FAILURE_CODES)  # noqa: S307 - our own source
