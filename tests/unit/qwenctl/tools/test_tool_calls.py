"""Parsing the tool calls in a model's output; a broken call becomes a problem report for the model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.protocol.messages import FinishReason, Message, ToolCall
from qwenctl.tools.call_format import has_bare_call
from qwenctl.tools.calls import ParsedCalls, answer_with_calls, format_call, parse_calls
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
        (f"<tool_call>\n<function=get_weather>\n{CITY}", [], 1, "the call is not closed by </function>"),
        (calling(PARIS.replace("</parameter>\n", "")), [], 1, "the parameter 'city' is not closed by </parameter>"),
        (
            calling(PARIS.replace("</parameter>\n", ""), PARIS),
            [],
            2,
            "the parameter 'city' is not closed by </parameter>",
        ),
        (calling("<function=now>\n", PARIS), [], 2, "the call is not closed by </function>"),
        (calling(PARIS, "<function=now>\n"), [], 2, "the call is not closed by </function>"),
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


def test_broken_call_stays_in_answer_text_and_nothing_is_a_call() -> None:
    output = calling("<function=now>\n", PARIS)
    message, _ = answer_with_calls("Well.", "", output, "stop", TOOLS)
    assert message.content == f"Well.\n\n{output}"
    assert message.tool_calls == ()


def problem_of(text: str, schema: Any, **keys: Any) -> tuple[Any, str]:
    """The argument x of a function with this `schema` for it, and what is wrong with the call."""
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, **keys}}
    body = f"<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n"
    [found] = parse_calls(calling(body), ({"type": "function", "function": function},)).calls
    return found.call.arguments["x"], found.problem


LETTER: dict[str, Any] = {"type": "string", "enum": ["a", "b"]}
NOT_A = "'x' of f must be one of "


@pytest.mark.parametrize(
    ("schema", "text", "problem"),
    [
        ({"const": "a"}, "b", NOT_A + '["a"], not "b"'),
        ({"anyOf": [LETTER, {"type": "null"}]}, "c", NOT_A + '["a", "b", null], not "c"'),
        ({"oneOf": [{"const": "a"}, LETTER]}, "c", NOT_A + '["a", "a", "b"], not "c"'),
        ({"allOf": [{"type": "string"}, LETTER]}, "c", NOT_A + '["a", "b"], not "c"'),
        ({"$ref": "#/$defs/L"}, "c", NOT_A + '["a", "b"], not "c"'),
        ({"enum": [0, 1, "true"]}, "2", NOT_A + '[0, 1, "true"], not 2'),
    ],
)
def test_value_that_a_schema_does_not_list_is_not_run(schema: Any, text: str, problem: str) -> None:
    assert problem_of(text, schema, **{"$defs": {"L": LETTER}})[1] == problem


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"anyOf": [LETTER, {"type": "null"}]}, "null", None),
        ({"anyOf": [LETTER, {"type": "string"}]}, "c", "c"),
        ({"oneOf": [LETTER, {"type": "integer"}]}, "3", 3),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "number"}, "3.0", 3.0),
    ],
)
def test_value_that_a_schema_allows_is_run(schema: Any, text: str, value: Any) -> None:
    found, problem = problem_of(text, schema)
    assert (found, type(found), problem) == (value, type(value), "")


def test_parameter_that_is_not_declared_is_not_run_even_if_it_is_the_only_one() -> None:
    body = "<function=now>\n<parameter=zone>\nUTC\n</parameter>\n</function>\n"
    found = parse_calls(calling(body), (tool("now", {"when": {}}),)).calls[0]
    assert found.problem == "now has no parameter 'zone'; it has: when"


@pytest.mark.parametrize(("more", "problem"), [(True, ""), ({"type": "integer"}, "'y' of f must be of type integer")])
def test_additional_parameter_has_the_schema_of_additional_ones(more: Any, problem: str) -> None:
    function = {"name": "f", "parameters": {"properties": {"x": {}}, "additionalProperties": more}}
    body = "<function=f>\n<parameter=y>\nz\n</parameter>\n</function>\n"
    [found] = parse_calls(calling(body), ({"type": "function", "function": function},)).calls
    assert found.problem.startswith(problem)
    assert bool(found.problem) == bool(problem)


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


JUNK = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(ANY_SCHEMA, max_size=2) | ANY_SCHEMA


@given(
    JUNK | st.dictionaries(st.sampled_from(["properties", "required", "additionalProperties", "anyOf"]), JUNK),
    st.sampled_from(["1", "x", "null", "{}"]),
)
def test_function_whose_parameters_are_no_schema_raises_nothing(parameters: Any, text: str) -> None:
    body = f"<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n"
    tools = ({"type": "function", "function": {"name": "f", "parameters": parameters}},)
    assert len(parse_calls(calling(body), tools).calls) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 70 + "]" * 70, "NaN", "1e999", "-Infinity", "9" * 5000, "{", ""])
def test_argument_with_nonportable_json_stays_text(text: str) -> None:
    [found] = parse_calls(
        calling(f"<function=f>\n<parameter=x>\n{text}\n</parameter>\n</function>\n"), (tool("f", {"x": {}}),)
    ).calls
    assert found.call.arguments == {"x": text}


def test_call_of_one_megabyte_is_parsed_quickly() -> None:
    tools = (tool("f", {"x": {"type": "string"}}),)
    for text, calls in (("</parameter>. <tool_call>. ", 1), ("</parameter> <tool_call>", 0), ("<parameter", 1)):
        output = calling(f"<function=f>\n<parameter=x>\n- {text * 40_000}-\n</parameter>\n</function>\n")
        assert len(parse_calls(output, tools).calls) == calls
    parse_calls("<tool_call><function=f><parameter=x>" * 20_000, ())
    parse_calls("<tool_call>" + "<  /   parameter" * 40_000, ())


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


# ------------------------------------------------------------------ values with tags, and near misses

PIECES = [
    *TAGS,
    "<parameter=y>",
    "</parameter>\n",
    "\n</parameter>",
    "\n</parameter>\n</function>\n</tool_call>",
    "{",
    '"',
]
TAGGED = st.lists(st.sampled_from([*PIECES, "\n", " ", "a", "</param>", "< /function>"]), max_size=8).map("".join)
ONE_PARAMETER = (tool("f", {"x": {"type": "string"}}, ["x"]), tool("now", {}))


def render(call: ToolCall) -> str:
    """The call as the chat template renders it."""
    values = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in call.arguments.items())
    return f"<tool_call>\n<function={call.name}>\n{values}</function>\n</tool_call>"


def is_rendering(output: str, found: ParsedCalls) -> bool:
    """Whether the calls that were found are rendered as just this text too: a value imitates them tag by tag."""
    return "\n".join(render(one.call) for one in found.calls) == output


@settings(max_examples=1500)
@given(TAGGED | st.text(), st.booleans())
def test_any_text_in_an_argument_comes_back_as_itself_or_nothing_runs(value: str, then_now: bool) -> None:
    calls = [ToolCall("f", {"x": value}), *([ToolCall("now", {})] if then_now else [])]
    output = "\n".join(map(render, calls))
    found = parse_calls(output, ONE_PARAMETER)
    if not found.calls:
        assert found.problem
    else:
        assert [one.call for one in found.calls] == calls or is_rendering(output, found)


@settings(max_examples=500)
@given(st.text(), TAGGED)
def test_any_text_in_two_arguments_comes_back_as_itself_or_nothing_runs(first: str, second: str) -> None:
    tools = (tool("f", {"x": {"type": "string"}, "z": {"type": "string"}}),)
    call = ToolCall("f", {"z": first, "x": second})
    found = parse_calls(render(call), tools)
    if found.calls:
        assert [one.call for one in found.calls] == [call] or is_rendering(render(call), found)


@given(TAGGED)
def test_text_that_only_spells_control_tokens_makes_no_call(value: str) -> None:
    call = ToolCall("f", {"x": value})
    output = render(call)
    found = parse_calls(output, ONE_PARAMETER, {0, len(output) - len("</tool_call>")})
    assert [one.call for one in found.calls] == [call] or (found.calls == () and found.problem)


@pytest.mark.parametrize(
    "value",
    [
        "Use </parameter> to close.",
        "a\n  </parameter>\n  <other>\nb",
        "<tool_call> and </tool_call> are tokens",
        "see <parameter=x> and </function>: so",
        "\nfirst and last line are empty\n",
        "",
        "#include <functional>",
        "</parameter",
    ],
)
def test_value_with_tags_that_end_nothing_comes_back(value: str) -> None:
    assert [one.call for one in parse_calls(render(ToolCall("f", {"x": value})), ONE_PARAMETER).calls] == [
        ToolCall("f", {"x": value})
    ]


def test_spelled_call_in_a_value_is_text_where_the_tokens_are_known() -> None:
    value = "\n".join(("old:", "</parameter>", "</function>", "</tool_call>", "<tool_call>", "new"))
    output = render(ToolCall("f", {"x": value}))
    assert parse_calls(output, ONE_PARAMETER).calls == ()
    [found] = parse_calls(output, ONE_PARAMETER, {0, len(output) - len("</tool_call>")}).calls
    assert found.call.arguments == {"x": value}


@pytest.mark.parametrize(
    "body",
    [
        "<function=f>\n<parameter=x>\n1\n</parameter>\n</parameter>\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>\n",
        "<function=f>\n<parameter=x>\n1\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n</param>\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n</parameter >\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n<parameter=y>\n2\n</parameter>\n</function>\n",
        "<function=f>\n<parameter=x>1<parameter=y>2</parameter></function>\n",
        '<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter name="y">\n2\n</parameter>\n</function>\n',
        "<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=x>\n2\n</parameter>\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=other>\n2\n</parameter>\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n</parameter>\nand y:\n<parameter=y>\n2\n</parameter>\n</function>\n",
        "<function=f>\n<parameter=x>\n1\n<function=f>\n<parameter=x>\n2\n</parameter>\n</function>\n",
        "<function=f>\n<function=f>\n<parameter=x>\n2\n</parameter>\n</function>\n",
        '<function="f">\n{"x": 1}\n',
        '{"name": "f", "arguments": {"x": 1}}\n',
    ],
)
def test_near_miss_of_a_call_runs_nothing_and_tells_the_model(body: str) -> None:
    tools = (tool("f", {"x": {"type": "string"}, "y": {"type": "string"}}), tool("now", {}))
    for output in (calling(body), calling(body, "<function=now>\n</function>\n")):
        found = parse_calls(output, tools)
        assert found.calls == ()
        assert found.problem.endswith("no function was run; write all calls again in the given format")
        assert found.broken == output


def test_call_without_its_outer_tag_is_text_and_the_model_is_told() -> None:
    message, found = answer_with_calls(f"I look.\n\n{PARIS}", "", "", "stop", TOOLS)
    assert (message.tool_calls, found.calls) == ((), ())
    assert found.problem.startswith("the call is not within <tool_call> and </tool_call>")
    quoted = f"A call looks so:\n```xml\n{PARIS}```\n"
    assert not answer_with_calls(quoted, "", "", "stop", TOOLS)[1].problem
    assert not has_bare_call(PARIS, {"other"})
