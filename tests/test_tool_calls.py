"""What a model says when it calls functions is understood: 300 generated calls, and broken ones become a message."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.engine.sampling.detokenizer import StreamingDetokenizer
from qwenctl.protocol.messages import Channel, FinishReason, Message, ToolCall, Tools
from qwenctl.tools.calls import answer_with_calls, find_calls, format_call
from qwenctl.tools.schema import parse_json
from tests.test_tool_prompts import TEMPLATE

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

# What the form cannot tell from its own tags.
TEXT = st.text().filter(lambda text: not any(tag in text for tag in ("</parameter>", "</function>", "<tool_call>")))
NAME = st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
VALUES: dict[str, tuple[dict[str, Any], st.SearchStrategy[Any]]] = {
    "string": ({"type": "string"}, TEXT),
    "integer": ({"type": "integer"}, st.integers()),
    "number": ({"type": "number"}, NUMBER),
    "boolean": ({"type": "boolean"}, st.booleans()),
    "null": ({"type": "null"}, st.none()),
    "array": ({"type": "array"}, st.lists(JSON, max_size=4)),
    "object": ({"type": "object"}, st.dictionaries(st.text(), JSON, max_size=4)),
    "number or null": ({"anyOf": [{"type": "number"}, {"type": "null"}]}, st.none() | NUMBER),
    "text or number": ({"type": ["string", "number"]}, NUMBER | TEXT.filter(lambda text: not is_number(text))),
    "choice": ({"enum": ["a", "b\n"]}, st.sampled_from(["a", "b\n"])),
    "elsewhere": ({"$ref": "#/$defs/Point"}, st.dictionaries(st.text(), JSON, max_size=4)),
    "anything": ({}, st.lists(JSON, max_size=4) | st.booleans() | NUMBER),
}


def is_number(text: str) -> bool:
    try:
        return isinstance(parse_json(text), int | float)
    except ValueError:
        return False


def tool(name: str, properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    defs = {"Point": {"type": "object"}}
    parameters = {"type": "object", "properties": properties, "required": required or [], "$defs": defs}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@st.composite
def tools_and_calls(draw: st.DrawFn) -> tuple[Tools, list[ToolCall]]:
    tools, calls = [], []
    for name in draw(st.lists(NAME, min_size=1, max_size=4, unique=True)):
        kinds = draw(st.dictionaries(NAME, st.sampled_from(list(VALUES)), max_size=4))
        tools.append(tool(name, {key: VALUES[kind][0] for key, kind in kinds.items()}))
        calls.append(ToolCall(name, {key: draw(VALUES[kind][1]) for key, kind in kinds.items()}))
    return tuple(tools), calls


def as_written(text: str, calls: list[ToolCall], thinking: str | None) -> str:
    """What a model says that writes as its template does, from its thinking on; None leaves that open."""
    functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    turn = {"role": "assistant", "content": text, "reasoning_content": thinking or "", "tool_calls": functions}
    rendered = TEMPLATE.render(messages=[{"role": "user", "content": "Hi"}, turn])
    output = rendered.split("<|im_start|>assistant\n<think>\n", 1)[1].removesuffix("<|im_end|>\n")
    return output if thinking is not None else output.replace("</think>\n\n", "", 1)


def heard(model: LoadedModel, output: str) -> dict[Channel, str]:
    """The text of each channel when the model says `said`."""
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
def test_calls_come_back_as_the_template_writes_them(
    toy_model: LoadedModel, made: tuple[Tools, list[ToolCall]], text: str, thinking: str, is_open: bool
) -> None:
    tools, calls = made
    told = heard(toy_model, as_written("" if is_open else text, calls, None if is_open else thinking))
    message, found = answer_with_calls(told["answer"], told["thinking"], told["call"], "stop", tools)
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
def test_what_a_model_writes_as_its_template_does_need_not_be_read_again(
    toy_model: LoadedModel, made: tuple[Tools, list[ToolCall]], text: str, thinking: str
) -> None:
    tools, calls = made
    output = unicodedata.normalize("NFC", as_written(text, calls, thinking))
    asked = [Message("user", "Hi")]
    called = [*asked, Message("assistant", text, thinking, tuple(calls)), Message("tool", "x")]
    begin = toy_model.template.prompt(asked, think=True, tools=tools).tokens + toy_model.tokenizer.tokenize_template(
        output
    )
    assert toy_model.template.prompt(called, think=True, tools=tools).tokens[: len(begin)] == begin


WEATHER = tool(
    "get_weather", {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]}}, ["city"]
)
TOOLS = (WEATHER, tool("now", {}))
CITY = "<parameter=city>\nParis\n</parameter>\n"


def calling(*bodies: str) -> str:
    return "\n".join(f"<tool_call>\n{body}</tool_call>" for body in bodies)


PARIS = f"<function=get_weather>\n{CITY}</function>\n"


def test_what_is_left_out_of_the_form_is_forgiven() -> None:
    wanted = [ToolCall("get_weather", {"city": "Paris"})]
    for output in (
        calling(PARIS),
        calling(PARIS).removesuffix("</tool_call>"),
        calling(PARIS).replace("\n", ""),
        calling(PARIS).replace("\n", "\n  ").replace("  Paris\n  ", "Paris\n"),
    ):
        assert [one.call for one in find_calls(output, TOOLS).calls] == wanted


@pytest.mark.parametrize(
    ("output", "names", "broken", "problem"),
    [
        ("<tool_call>", [], 1, "the call has no <function=NAME>"),
        ("<tool_call>\nget_weather(Paris)\n</tool_call>", [], 1, "the call has no <function=NAME>"),
        ('<tool_call>\n{"name": "now"}\n</tool_call>', [], 1, "the call has no <function=NAME>"),
        ("<tool_call>\n<function=now", [], 1, "the call has no <function=NAME>"),
        ("<tool_call>\n<function=now>\n", [], 1, "the call is not closed by </function>"),
        ("<tool_call>\n<function=now>\n</tool_call>", [], 1, "the call is not closed by </function>"),
        (f"<tool_call>\n<function=get_weather>\n{CITY}", [], 1, "the parameter 'city' is not closed by </parameter>"),
        (calling(PARIS.replace("</parameter>\n", "")), [], 1, "the parameter 'city' is not closed by </parameter>"),
        (
            calling(PARIS.replace("</parameter>\n", ""), PARIS),
            ["get_weather"],
            1,
            "the parameter 'city' is not closed by </parameter>",
        ),
        (calling("<function=now>\n", PARIS), ["get_weather"], 1, "the call is not closed by </function>"),
        (calling(PARIS) + "\nIt is sunny.", ["get_weather"], 0, "text after a call is not read"),
        (
            calling(PARIS) + "\n<tool_response>\nsunny\n</tool_response>\n" + calling("<function=now>\n</function>\n"),
            ["get_weather", "now"],
            0,
            "text after a call is not read",
        ),
    ],
)
def test_what_is_no_call_is_told_to_the_model(output: str, names: list[str], broken: int, problem: str) -> None:
    found = find_calls(output, TOOLS)
    assert [one.call.name for one in found.calls] == names
    assert found.broken.count("<tool_call>") == broken
    assert found.problem.startswith(problem)
    assert "\n" not in found.problem


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (PARIS.replace("get_weather", "get_wether"), "no function is named 'get_wether'; available: get_weather, now"),
        (PARIS.replace("city", "town"), "get_weather needs the parameter 'city'"),
        (
            PARIS.replace(CITY, CITY + "<parameter=days>\nsome\n</parameter>\n"),
            "'days' of get_weather must be of type integer, not \"some\"",
        ),
        (
            PARIS.replace(CITY, CITY + "<parameter=days>\n1.5\n</parameter>\n"),
            "'days' of get_weather must be of type integer, not 1.5",
        ),
        (
            PARIS.replace(CITY, CITY + "<parameter=unit>\nk\n</parameter>\n"),
            '\'unit\' of get_weather must be one of ["c", "f"], not "k"',
        ),
    ],
)
def test_a_call_that_cannot_be_run_says_why(function: str, problem: str) -> None:
    [found] = find_calls(calling(function), TOOLS).calls
    assert found.problem == problem


@pytest.mark.parametrize("reason", ["length", "context", "loop", "cancelled"])
def test_an_answer_that_was_cut_calls_nothing(reason: FinishReason) -> None:
    message, found = answer_with_calls("Well. ", "hm", calling(PARIS), reason, TOOLS)
    assert message == Message("assistant", "Well. " + calling(PARIS), "hm")
    assert found.calls == ()


def test_what_is_broken_stays_what_the_model_said() -> None:
    message, _ = answer_with_calls("Well.", "", calling("<function=now>\n", PARIS), "stop", TOOLS)
    assert message.content == "Well.\n\n" + calling("<function=now>\n")
    assert message.tool_calls == (ToolCall("get_weather", {"city": "Paris"}),)


TAGS = ["<tool_call>", "</tool_call>", "<function=now>", "<function=", "</function>", "<parameter=x>", "</parameter>"]
ANYTHING = st.lists(st.sampled_from([*TAGS, "\n", ">"]) | st.text(max_size=5)).map("".join)
ANY_SCHEMA = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | st.just({"$ref": "#/properties/x"}),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "enum", "const", "anyOf", "allOf", "$ref", "items"]), inner, max_size=3
        )
    ),
)


@settings(max_examples=500)
@given(ANYTHING, ANY_SCHEMA)
def test_nothing_that_a_model_says_is_an_exception(output: str, schema: Any) -> None:
    found = find_calls("<tool_call>" + output, (tool("now", {"x": schema}),))
    assert found.calls or found.problem
    for one in found.calls:
        assert json.loads(json.dumps(one.call.arguments, allow_nan=False)) == one.call.arguments
        format_call(one.call)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 70 + "]" * 70, "NaN", "1e999", "-Infinity", "9" * 5000, "{", ""])
def test_json_that_other_programs_cannot_read_is_text(text: str) -> None:
    [found] = find_calls(
        calling(f"<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n"), (tool("f", {"x": {}}),)
    ).calls
    assert found.call.arguments == {"x": text}


def test_a_call_of_a_megabyte_is_read_at_once() -> None:
    output = calling(f"<function=f>\n<parameter=x>\n{'</parameter> <tool_call>' * 40_000}\n</parameter>\n</function>\n")
    assert len(find_calls(output, (tool("f", {"x": {"type": "string"}}),)).calls) == 1
    find_calls("<tool_call><function=f><parameter=x>" * 20_000, ())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "f()"),
        (
            {"city": "Paris", "days": 3, "x": None, "y": [True, {"ä": 1.5}]},
            'f(city="Paris", days=3, x=null, y=[true, {"ä": 1.5}])',
        ),
        ({"a": "\x1b[2J\x9b31m\u202e\n"}, 'f(a="\\u001b[2J\\u009b31m\\u202e\\n")'),
        ({"\x1b]0;evil\x07": 1}, "f(\\u001b]0;evil\\u0007=1)"),
    ],
)
def test_a_call_is_shown_on_one_line_with_nothing_hidden(arguments: dict[str, Any], line: str) -> None:
    assert format_call(ToolCall("f", arguments)) == line
