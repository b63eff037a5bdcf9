"""The tool calls in a model's answer: parsed (`call_format`), converted and checked by the schemas (`schema`).

The text of an answer from its first `<tool_call>` on comes in; calls go out, each with its problem if it has one, or
the text, if it cannot be read for certain: then nothing in it is a call. Nothing a model writes raises an exception:
problems become sentences for the model to read.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from qwenctl.protocol.messages import FinishReason, Message, ToolCall, Tools
from qwenctl.tools.call_format import BrokenCall, RawCall, has_bare_call, read_calls
from qwenctl.tools.schema import coerce_argument, declares_parameter, find_parameters, validate_call

_NOTHING_RUN = "no function was run; write all calls again in the given format"
_BARE_CALL = f"the call is not within <tool_call> and </tool_call>; {_NOTHING_RUN}"


@dataclass(frozen=True)
class ParsedCall:
    """A call; `problem` says why it cannot be run, and is empty if it can."""

    call: ToolCall
    problem: str = ""


@dataclass(frozen=True)
class ParsedCalls:
    """The calls of an answer. `broken` is the text of calls that cannot be read for certain: then there are no others.

    `problem` says what is wrong with the answer, for the model; it is empty if nothing is.
    """

    calls: tuple[ParsedCall, ...] = ()
    broken: str = ""
    problem: str = ""


def answer_with_calls(
    text: str,
    thinking: str,
    calls: str,
    reason: FinishReason,
    tools: Tools,
    control_offsets: Collection[int] | None = None,
) -> tuple[Message, ParsedCalls]:
    """Build an assistant turn from an answer, and parse its calls (`control_offsets`: see `parse_calls`).

    Only an answer that the model ended itself (`reason` "stop") has calls; otherwise their text becomes content. A call
    without its `<tool_call>` stays text, and the model is told.
    """
    if reason != "stop":
        return Message("assistant", text + calls, thinking), ParsedCalls()
    if tools and has_bare_call(text, {tool["function"]["name"] for tool in tools}):
        parsed = ParsedCalls((), calls.strip(), _BARE_CALL)
    else:
        parsed = parse_calls(calls, tools, control_offsets)
    content = "\n\n".join(part for part in (text.strip(), parsed.broken) if part) if parsed.broken else text
    return Message("assistant", content, thinking, tuple(item.call for item in parsed.calls)), parsed


def parse_calls(text: str, tools: Tools, control_offsets: Collection[int] | None = None) -> ParsedCalls:
    """Parse the calls in `text`, and check them against the schemas of `tools`. Never raises.

    `control_offsets` are the indices in `text` of the <tool_call> and </tool_call> that are control tokens, not
    ordinary tokens that spell them; None if that is not known.
    """

    def declares(function: str, parameter: str) -> bool:
        parameters = find_parameters(tools, function)
        return parameters is None or declares_parameter(parameters, parameter)

    try:
        calls, problem = read_calls(text, declares, control_offsets)
    except BrokenCall as error:
        return ParsedCalls((), text.strip(), f"{error}; {_NOTHING_RUN}")
    return ParsedCalls(tuple(_check_call(call, tools) for call in calls), "", problem)


def _check_call(raw: RawCall, tools: Tools) -> ParsedCall:
    parameters = find_parameters(tools, raw.name) or {}
    call = ToolCall(raw.name, {name: coerce_argument(text, name, parameters) for name, text in raw.arguments.items()})
    return ParsedCall(call, validate_call(call, tools))


def format_call(call: ToolCall) -> str:
    """Format a call on one line for the user: `get_weather(city="Paris")`. Unprintable characters are escaped."""
    arguments = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    # The user approves the call by this line, so nothing in it may be invisible or move the cursor.
    line = f"{call.name}({', '.join(arguments)})"
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
