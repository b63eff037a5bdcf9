"""Parsing the tool calls in a model's output; a broken call becomes a problem report for the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.protocol.messages import FinishReason, Message, ToolCall
from qwenctl.tools.calls import answer_with_calls, format_call, parse_calls
from tests.support.tool_calls import tool

WEATHER = tool(
    "get_weather", {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]}}, ["city"]
)
TOOLS = (WEATHER, tool("now", {}))
CITY = "<parameter=city>\nParis\n</parameter>\n"


def calling(*bodies: str) -> str:
    return "\n".join(f"<tool_call>\n{body}</tool_call>" for body in bodies)


PARIS = f"<function=get_weather>\n{CITY}</function>\n"


def test_call_without_line_breaks_or_closing_tag_is_parsed() -> None:
    wanted = [ToolCall("get_weather", {"city": "Paris"})]
    for output in (
        calling(PARIS),
        calling(PARIS).removesuffix("</tool_call>"),
        calling(PARIS).replace("\n", ""),
        calling(PARIS).replace("\n", "\n  ").replace("  Paris\n  ", "Paris\n"),
    ):
        assert [one.call for one in parse_calls(output, TOOLS).calls] == wanted


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
def test_malformed_call_gives_one_line_problem(output: str, names: list[str], broken: int, problem: str) -> None:
    found = parse_calls(output, TOOLS)
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
def test_call_that_cannot_run_names_problem(function: str, problem: str) -> None:
    [found] = parse_calls(calling(function), TOOLS).calls
    assert found.problem == problem


@pytest.mark.parametrize("reason", ["length", "context", "loop", "cancelled"])
def test_truncated_answer_calls_nothing(reason: FinishReason) -> None:
    message, found = answer_with_calls("Well. ", "hm", calling(PARIS), reason, TOOLS)
    assert message == Message("assistant", "Well. " + calling(PARIS), "hm")
    assert found.calls == ()


def test_broken_call_stays_in_answer_text() -> None:
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
def test_random_model_output_raises_nothing(output: str, schema: Any) -> None:
    found = parse_calls("<tool_call>" + output, (tool("now", {"x": schema}),))
    assert found.calls or found.problem
    for one in found.calls:
        assert json.loads(json.dumps(one.call.arguments, allow_nan=False)) == one.call.arguments
        format_call(one.call)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 70 + "]" * 70, "NaN", "1e999", "-Infinity", "9" * 5000, "{", ""])
def test_argument_with_nonportable_json_stays_text(text: str) -> None:
    [found] = parse_calls(
        calling(f"<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n"), (tool("f", {"x": {}}),)
    ).calls
    assert found.call.arguments == {"x": text}


def test_call_of_one_megabyte_is_parsed_quickly() -> None:
    output = calling(f"<function=f>\n<parameter=x>\n{'</parameter> <tool_call>' * 40_000}\n</parameter>\n</function>\n")
    assert len(parse_calls(output, (tool("f", {"x": {"type": "string"}}),)).calls) == 1
    parse_calls("<tool_call><function=f><parameter=x>" * 20_000, ())


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
def test_formatted_call_is_one_line_with_controls_escaped(arguments: dict[str, Any], line: str) -> None:
    assert format_call(ToolCall("f", arguments)) == line
