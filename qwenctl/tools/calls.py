"""Parse the tool calls in a model's answer, in the format of Qwen3.5:

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

The text of an answer from its first `<tool_call>` on comes in; calls go out, each with its problem if it has one, and
text that is not a call. Nothing a model writes raises an exception: problems become sentences for the model to read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from qwenctl.protocol.messages import FinishReason, Message, ToolCall, Tools
from qwenctl.tools.schema import coerce_argument, find_parameters, validate_call

_BEGIN = "<tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^>\n]*)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]*)>\n?")
# A value may contain the closing tag as text; the real one is followed by another parameter or the function's end.
_PARAMETER_END = re.compile(r"\n?</parameter>(?=\s*(?:<parameter=|</function>))")
_FUNCTION_END = re.compile(r"\s*</function>(?:\s*</tool_call>)?")
_CALL_END = re.compile(r"</function>\s*</tool_call>")
_MAX_BROKEN = 8  # broken calls reported one by one; the rest of the text counts as one more
_TEXT_AFTER_CALL = "text after a call is not read: write nothing after the calls"


@dataclass(frozen=True)
class ParsedCall:
    """A call; `problem` says why it cannot be run, and is empty if it can."""

    call: ToolCall
    problem: str = ""


@dataclass(frozen=True)
class ParsedCalls:
    """The calls of an answer. `broken` is the text of malformed calls, `problem` what is wrong with the answer."""

    calls: tuple[ParsedCall, ...] = ()
    broken: str = ""
    problem: str = ""


class _BrokenCall(Exception):
    """The text does not follow the call format; the message says why, for the model."""


def answer_with_calls(
    text: str, thinking: str, calls: str, reason: FinishReason, tools: Tools
) -> tuple[Message, ParsedCalls]:
    """Build an assistant turn from an answer, and parse its calls.

    Only an answer that the model ended itself (`reason` "stop") has calls; otherwise their text becomes content.
    """
    if reason != "stop":
        return Message("assistant", text + calls, thinking), ParsedCalls()
    parsed = parse_calls(calls, tools)
    content = "\n\n".join(part for part in (text.strip(), parsed.broken) if part) if parsed.broken else text
    return Message("assistant", content, thinking, tuple(item.call for item in parsed.calls)), parsed


def parse_calls(text: str, tools: Tools) -> ParsedCalls:
    """Parse the calls in `text`, and check them against the schemas of `tools`. Never raises."""
    calls: list[ParsedCall] = []
    broken: list[str] = []
    problems: list[str] = []
    position = 0
    while (begin := text.find(_BEGIN, position)) >= 0:
        if text[position:begin].strip():
            problems.append(_TEXT_AFTER_CALL)
        try:
            call, position = _parse_call(text, begin + len(_BEGIN), tools)
        except _BrokenCall as error:
            # Resume at the next call, so that one malformed call does not hide those after it.
            following = text.find(_BEGIN, begin + len(_BEGIN)) if len(broken) < _MAX_BROKEN else -1
            position = following if following >= 0 else len(text)
            broken.append(text[begin:position].strip())
            problems.append(str(error))
        else:
            calls.append(ParsedCall(call, validate_call(call, tools)))
    if text[position:].strip():
        problems.append(_TEXT_AFTER_CALL)
    return ParsedCalls(tuple(calls), "\n".join(broken), "\n".join(dict.fromkeys(problems)))


def format_call(call: ToolCall) -> str:
    """Format a call on one line for the user: `get_weather(city="Paris")`. Unprintable characters are escaped."""
    arguments = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    # The user approves the call by this line, so nothing in it may be invisible or move the cursor.
    line = f"{call.name}({', '.join(arguments)})"
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def _parse_call(text: str, start: int, tools: Tools) -> tuple[ToolCall, int]:
    """Parse the call whose `<function=` starts at index `start`; return it and its end index. Raises _BrokenCall."""
    function = _FUNCTION.match(text, start)
    if function is None:
        raise _BrokenCall("the call has no <function=NAME>")
    name, position = function[1].strip(), function.end()
    parameters = find_parameters(tools, name) or {}
    arguments = {}
    while (parameter := _PARAMETER.match(text, position)) is not None:
        key, begin = parameter[1].strip(), parameter.end()
        end, call_end = _PARAMETER_END.search(text, begin), _CALL_END.search(text, begin)
        # A closing tag beyond the end of this call belongs to a later call.
        if end is None or (call_end is not None and call_end.start() < end.start()):
            raise _BrokenCall(f"the parameter {key!r} is not closed by </parameter>")
        arguments[key] = coerce_argument(text[begin : end.start()], key, parameters)
        position = end.end()
    closing = _FUNCTION_END.match(text, position)
    if closing is None:
        raise _BrokenCall("the call is not closed by </function>")
    return ToolCall(name, arguments), closing.end()
