"""One answer without a terminal: passed on, saved in its session, and made of calls where functions may be called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from qwenctl.chat.build_request import AnswerLimits
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.one_shot import AnswerSink, answer_once, make_tool_runner
from qwenctl.chat.pipe import CompletedAnswer
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.engine.interface import InferenceEngine, LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import TextDelta, ToolCall
from qwenctl.terminal.streams import StatusLine
from qwenctl.tools.calls import parse_calls
from qwenctl.tools.tool_set import MAX_ROUNDS, ToolSet
from tests.support.scripted_engine import LOADED, Emitted, ScriptedEngine, answer

TOOLS: Any = ({"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},)
CALL = "<tool_call>\n<function=get_time>\n</function>\n</tool_call>"


def calling(text: str = "") -> list[Emitted]:
    """The events of an answer that calls a function after `text`."""
    *pieces, done = answer(text)
    return [*pieces, TextDelta(CALL, "call"), done]


class Clock:
    """A set of functions that tells the time."""

    schemas = TOOLS
    manual_tools: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []

    def run(self, call: ToolCall) -> str:
        self.calls.append(call)
        return "noon"


class Heard:
    """What goes to the answer and to the thinking."""

    def __init__(self) -> None:
        self.answer, self.thinking = list[str](), list[str]()
        self.sink = AnswerSink(StatusLine(None), self.answer.append, self.thinking.append)


def ask(answers: Sequence[Sequence[Emitted]], heard: Heard, *, functions: Clock | None = None) -> CompletedAnswer:
    engine = ScriptedEngine(answers)
    talk = Conversation(tools=TOOLS if functions else ()).with_user("What time is it?")
    caller = make_tool_runner(cast("ToolSet", functions), heard.sink, allowed=True) if functions else None
    model = LoadedEngine(cast("InferenceEngine", engine), LOADED)
    return answer_once(model, talk, AnswerLimits(), Path("toy.gguf"), None, heard.sink, caller)


def test_answer_is_passed_on_and_ends_with_a_newline() -> None:
    heard = Heard()
    found = ask([answer("It is noon.")], heard)
    assert found.text == "It is noon."
    assert "".join(heard.answer) == "It is noon.\n"


def test_call_is_run_and_only_the_last_answer_is_passed_on() -> None:
    heard, clock = Heard(), Clock()
    found = ask([calling("Let me see.\n"), answer("It is noon.")], heard, functions=clock)
    assert [call.name for call in clock.calls] == ["get_time"]
    assert (found.text, "".join(heard.answer)) == ("It is noon.", "It is noon.\n")
    assert any("→ get_time" in text and "noon" in text for text in heard.thinking)


def test_answer_that_never_stops_calling_is_given_up() -> None:
    with pytest.raises(QwenctlError, match=f"no answer after {MAX_ROUNDS} rounds of calls") as caught:
        ask([calling()] * MAX_ROUNDS, Heard(), functions=Clock())
    assert caught.value.code == ExitCode.BAD_DATA


def test_call_that_is_not_allowed_is_refused_and_not_run() -> None:
    clock, heard = Clock(), Heard()
    runner = make_tool_runner(cast("ToolSet", clock), heard.sink, allowed=False)
    found = parse_calls(CALL, TOOLS)
    with pytest.raises(QwenctlError, match="the model wants to call get_time") as caught:
        runner(found)
    assert caught.value.code == ExitCode.NO_PERMISSION
    assert clock.calls == []


def test_wrong_call_gets_its_problem_as_result_and_is_not_run() -> None:
    clock, heard = Clock(), Heard()
    runner = make_tool_runner(cast("ToolSet", clock), heard.sink, allowed=False)
    [result] = runner(parse_calls(CALL.replace("get_time", "get_date"), TOOLS))
    assert "no function is named 'get_date'" in result
    assert clock.calls == []


def test_session_is_restored_and_saved_with_the_answer_and_its_state(tmp_path: Path) -> None:
    engine, heard = ScriptedEngine([answer("It is noon.")]), Heard()
    session = SessionStore(tmp_path).open("time")
    model = LoadedEngine(cast("InferenceEngine", engine), LOADED)
    talk = Conversation().with_user("What time is it?")
    answer_once(model, talk, AnswerLimits(), Path("toy.gguf"), session, heard.sink)
    session.close()
    messages = SessionStore(tmp_path).load("time").conversation.messages
    assert [message.content for message in messages] == ["What time is it?", "It is noon."]
    assert len(engine.prepared[0]) == 2
