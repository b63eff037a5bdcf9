"""Tool calls rendered by the chat template become tokens, and these tokens are parsed back into the same calls."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import Channel, Message, ToolCall, Tools
from qwenctl.tools.calls import answer_with_calls
from qwenctl.tools.schema import parse_json
from tests.support.paths import TOY
from tests.support.prompt_reference import TEMPLATE
from tests.support.tool_calls import tool

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

ADDED_TOKENS = [token["content"] for token in json.loads((TOY / "tokenizer.json").read_text())["added_tokens"]]


def lacks(tags: Sequence[str]) -> Callable[[str], bool]:
    """A filter for texts that contain none of `tags`."""
    return lambda text: not any(tag in text for tag in tags)


CLOSING_TAGS = ["</parameter>", "</function>"]
# Text without added tokens such as <tool_call>: tokenized as output, it would contain these tokens.
PLAIN = (st.text() | st.sampled_from([*CLOSING_TAGS, "<function=a>", "<parameter=_>"])).filter(lacks(ADDED_TOKENS))
# Text without the closing tags of the call format, which has no way to escape them except in JSON values.
TEXT = PLAIN.filter(lacks(CLOSING_TAGS))
NAME = st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4),
)
VALUES: dict[str, tuple[dict[str, Any], st.SearchStrategy[Any]]] = {
    "string": ({"type": "string"}, TEXT),
    "integer": ({"type": "integer"}, st.integers()),
    "number": ({"type": "number"}, NUMBER),
    "boolean": ({"type": "boolean"}, st.booleans()),
    "null": ({"type": "null"}, st.none()),
    "array": ({"type": "array"}, st.lists(JSON, max_size=4)),
    "object": ({"type": "object"}, st.dictionaries(PLAIN, JSON, max_size=4)),
    "number or null": ({"anyOf": [{"type": "number"}, {"type": "null"}]}, st.none() | NUMBER),
    "text or number": ({"type": ["string", "number"]}, NUMBER | TEXT.filter(lambda text: not is_number(text))),
    "choice": ({"enum": ["a", "b\n"]}, st.sampled_from(["a", "b\n"])),
    "elsewhere": ({"$ref": "#/$defs/Point"}, st.dictionaries(PLAIN, JSON, max_size=4)),
    "anything": ({}, st.lists(JSON, max_size=4) | st.booleans() | NUMBER),
}


def is_number(text: str) -> bool:
    try:
        return isinstance(parse_json(text), int | float)
    except ValueError:
        return False


@st.composite
def tools_and_calls(draw: st.DrawFn) -> tuple[Tools, list[ToolCall]]:
    tools, calls = [], []
    for name in draw(st.lists(NAME, min_size=1, max_size=4, unique=True)):
        kinds = draw(st.dictionaries(NAME, st.sampled_from(list(VALUES)), max_size=4))
        tools.append(tool(name, {key: VALUES[kind][0] for key, kind in kinds.items()}))
        calls.append(ToolCall(name, {key: draw(VALUES[kind][1]) for key, kind in kinds.items()}))
    return tuple(tools), calls


def render_output(text: str, calls: list[ToolCall], thinking: str | None) -> str:
    """Model output in the form of its template, from the thinking on; with None the thinking is left open."""
    functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    turn = {"role": "assistant", "content": text, "reasoning_content": thinking or "", "tool_calls": functions}
    rendered = TEMPLATE.render(messages=[{"role": "user", "content": "Hi"}, turn])
    output = rendered.split("<|im_start|>assistant\n<think>\n", 1)[1].removesuffix("<|im_end|>\n")
    return output if thinking is not None else output.replace("</think>\n\n", "", 1)


def detokenize(model: LoadedModel, output: str) -> dict[Channel, str]:
    """The text of each channel when the model generates `output`."""
    text = StreamingDetokenizer(
        model.token_bytes, model.think_end_token, thinking=True, tool_call_start=model.tool_call_start_token
    )
    events = [
        event for token in model.tokenizer.tokenize_template(output) for event in text.feed(token)
    ] + text.finish()
    channels: tuple[Channel, ...] = ("thinking", "answer", "call")
    return {one: "".join(event.text for event in events if event.channel == one) for one in channels}


@pytest.mark.own_process
@settings(max_examples=300)
@given(tools_and_calls(), TEXT, TEXT, st.booleans())
def test_tool_calls_rendered_by_the_template_are_parsed_back(
    toy_model: LoadedModel, made: tuple[Tools, list[ToolCall]], text: str, thinking: str, is_open: bool
) -> None:
    tools, calls = made
    texts = detokenize(toy_model, render_output("" if is_open else text, calls, None if is_open else thinking))
    message, found = answer_with_calls(texts["answer"], texts["thinking"], texts["call"], "stop", tools)
    if not found.calls and found.problem and any("<" in repr(call) for call in calls):
        return  # a value ends in a tag, or begins a line with one: it cannot be told from a forgotten tag
    assert [one.call for one in found.calls] == calls
    assert repr([one.call for one in found.calls]) == repr(calls)  # True is not 1
    assert [one.problem for one in found.calls] == [""] * len(calls)
    assert (found.broken, found.problem) == ("", "")
    assert message.tool_calls == tuple(calls)
    if not is_open:
        assert (message.content.strip(), message.thinking.strip()) == (text.strip(), thinking.strip())


@pytest.mark.own_process
@settings(max_examples=200)
@given(tools_and_calls(), TEXT, TEXT.filter(str.strip))
def test_output_in_template_form_is_a_prefix_of_the_next_prompt(
    toy_model: LoadedModel, made: tuple[Tools, list[ToolCall]], text: str, thinking: str
) -> None:
    tools, calls = made
    output = unicodedata.normalize("NFC", render_output(text, calls, thinking))
    asked = [Message("user", "Hi")]
    called = [*asked, Message("assistant", text, thinking, tuple(calls)), Message("tool", "x")]
    begin = toy_model.template.prompt(asked, think=True, tools=tools).tokens + toy_model.tokenizer.tokenize_template(
        output
    )
    assert toy_model.template.prompt(called, think=True, tools=tools).tokens[: len(begin)] == begin
