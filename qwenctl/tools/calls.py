"""The calls in a model's answer, in the form of Qwen3.5:

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

The text of an answer from its first `<tool_call>` on comes in, calls go out, each with what is wrong with it, and what
is no call. Nothing that a model writes raises an exception: what is wrong becomes a sentence for the model to read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from qwenctl.protocol.messages import FinishReason, Message, ToolCall, Tools
from qwenctl.tools.schema import coerce_argument, parameters_of, validate_call

_BEGIN = "<tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^>\n]*)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]*)>\n?")
# Text may hold the closing tag too; the one that counts is followed by what can come next.
_PARAMETER_END = re.compile(r"\n?</parameter>(?=\s*(?:<parameter=|</function>))")
_FUNCTION_END = re.compile(r"\s*</function>(?:\s*</tool_call>)?")
_CALL_END = re.compile(r"</function>\s*</tool_call>")
_MOST_BROKEN = 8  # calls of an answer; what follows is taken as one more
_TEXT_AFTER = "text after a call is not read: write nothing after the calls"


@dataclass(frozen=True)
class ParsedCall:
    """A call, and what is wrong with it, if it cannot be run."""

    call: ToolCall
    problem: str = ""


@dataclass(frozen=True)
class ParsedCalls:
    """The calls of an answer; `broken` is text that was meant to be one, and `problem` what is wrong besides."""

    calls: tuple[ParsedCall, ...] = ()
    broken: str = ""
    problem: str = ""


class _Broken(Exception):
    """The text is not of the form."""


def answer_with_calls(
    text: str, thinking: str, calls: str, reason: FinishReason, tools: Tools
) -> tuple[Message, ParsedCalls]:
    """An answer as a turn of the conversation, and its calls; only an answer that ended by itself has any."""
    if reason != "stop":
        return Message("assistant", text + calls, thinking), ParsedCalls()
    found = find_calls(calls, tools)
    content = "\n\n".join(part for part in (text.strip(), found.broken) if part) if found.broken else text
    return Message("assistant", content, thinking, tuple(one.call for one in found.calls)), found


def find_calls(text: str, tools: Tools) -> ParsedCalls:
    """The calls in `text`, of the functions `tools`."""
    calls: list[ParsedCall] = []
    broken: list[str] = []
    problems: list[str] = []
    at = 0
    while (begin := text.find(_BEGIN, at)) >= 0:
        if text[at:begin].strip():
            problems.append(_TEXT_AFTER)
        try:
            call, at = _call(text, begin + len(_BEGIN), tools)
        except _Broken as error:
            following = text.find(_BEGIN, begin + len(_BEGIN)) if len(broken) < _MOST_BROKEN else -1
            at = following if following >= 0 else len(text)
            broken.append(text[begin:at].strip())
            problems.append(str(error))
        else:
            calls.append(ParsedCall(call, validate_call(call, tools)))
    if text[at:].strip():
        problems.append(_TEXT_AFTER)
    return ParsedCalls(tuple(calls), "\n".join(broken), "\n".join(dict.fromkeys(problems)))


def format_call(call: ToolCall) -> str:
    """A call on one line, as a person reads it: `get_weather(city="Paris")`. What cannot be seen is spelled out."""
    arguments = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call.arguments.items())
    line = f"{call.name}({', '.join(arguments)})"
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)


def _call(text: str, at: int, tools: Tools) -> tuple[ToolCall, int]:
    """The call whose function begins at `at`, and where it ends."""
    function = _FUNCTION.match(text, at)
    if function is None:
        raise _Broken("the call has no <function=NAME>")
    name, at = function[1].strip(), function.end()
    parameters = parameters_of(tools, name) or {}
    arguments = {}
    while (parameter := _PARAMETER.match(text, at)) is not None:
        key, begin = parameter[1].strip(), parameter.end()
        end, call_end = _PARAMETER_END.search(text, begin), _CALL_END.search(text, begin)
        if end is None or (call_end is not None and call_end.start() < end.start()):
            raise _Broken(f"the parameter {key!r} is not closed by </parameter>")
        arguments[key] = coerce_argument(text[begin : end.start()], key, parameters)
        at = end.end()
    closing = _FUNCTION_END.match(text, at)
    if closing is None:
        raise _Broken("the call is not closed by </function>")
    return ToolCall(name, arguments), closing.end()
