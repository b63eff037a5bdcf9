"""Calls in a chat: shown, asked about, run, answered; with an engine that says what the test tells it to."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.export import export_text
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import Message, TextDelta, ToolCall
from qwenctl.tools.json_tools import JsonTools
from qwenctl.tools.tool_set import MAX_ROUNDS
from tests.support.scripted_engine import CRASH, DONE, LOADED, Chat, Emitted, ScriptedEngine, answer

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
FUNCTIONS = [
    {
        "name": "get_weather",
        "description": "Weather.\nIn a city.",
        "parameters": CITY,
        "command": ["echo", "sunny"],
    },
    {"name": "fail", "command": ["sh", "-c", "echo broken >&2; exit 3"]},
    {"name": "long", "command": ["sh", "-c", "seq 1 40"]},
    {"name": "hang", "command": ["sleep", "600"]},
    {"name": "evil", "command": ["printf", "\\033]52;c;ZXZpbA==\\007\\033[2J\\302\\2331mtame"]},
    {"name": "weigh"},
]


def call(name: str, **arguments: Any) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


PARIS = call("get_weather", city="Paris")
PARIS_CALL = ToolCall("get_weather", {"city": "Paris"})
REFUSED = "error: the user did not allow this call"


def calling(*calls: str, text: str = "", thinking: str = "") -> list[Emitted]:
    """An answer that calls functions: thinking and text, if any, then the calls."""
    before = [TextDelta(thinking, "thinking")] if thinking else []
    return [
        *before,
        *([TextDelta(text, "answer")] if text else []),
        *(TextDelta(one + "\n", "call") for one in calls),
        DONE,
    ]


class ToolChat:
    """A chat with functions; `typed` is what the person says when asked."""

    def __init__(
        self, folder: Path, *answers: list[Emitted], typed: tuple[str | type[BaseException], ...] = ()
    ) -> None:
        (folder / "tools.json").write_text(json.dumps(FUNCTIONS))
        self.functions = JsonTools(folder / "tools.json", 30)
        self.engine = ScriptedEngine(answers)
        self.chat = Chat(self.engine)
        self.typed, self.questions = list(typed), list[str]()

    def run(self, *lines: str, **setup: Any) -> ExitCode:
        def ask(question: str) -> str:
            self.questions.append(question)
            said = self.typed.pop(0)
            if isinstance(said, str):
                return said
            raise said

        talk = Conversation(tools=self.functions.schemas)
        return self.chat.run(*lines, conversation=talk, functions=self.functions, ask=ask, **setup)

    def results(self, request: int = 1) -> list[str]:
        """The results that the model was told before its answer number `request`."""
        return [message.content for message in self.engine.requests[request].messages if message.role == "tool"]


def test_a_call_is_shown_run_after_a_yes_and_answered(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(PARIS, text="Let me look.\n", thinking="hm"), answer("It is sunny."), typed=("y",))
    assert one.run("Weather in Paris?") == ExitCode.OK
    assert '→ get_weather(city="Paris")' in one.chat.text
    assert "\n  sunny\n" in one.chat.text
    assert "It is sunny." in one.chat.text
    assert "<tool_call>" not in one.chat.text
    assert one.chat.text.count("tokens/s") == 1
    assert one.questions == ["run it? [y]es [n]o [a]lways: "]
    assert [tool["function"]["name"] for tool in one.engine.requests[0].tools][:2] == ["get_weather", "fail"]
    assert one.engine.requests[1].messages == (
        Message("user", "Weather in Paris?"),
        Message("assistant", "Let me look.\n", "hm", (PARIS_CALL,)),
        Message("tool", "sunny"),
    )
    assert one.engine.prepared[-1] == (*one.engine.requests[1].messages, Message("assistant", "It is sunny."))


def test_always_asks_no_more_about_that_function(tmp_path: Path) -> None:
    two = calling(PARIS, call("get_weather", city="Rome"), call("fail"))
    one = ToolChat(tmp_path, two, calling(PARIS), answer("Done."), typed=("what", "", " Always ", "no"))
    one.run("Go.")
    assert one.results(2) == ["sunny", "sunny", REFUSED, "sunny"]
    assert len(one.questions) == 4


def test_yes_to_all_asks_nothing(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(PARIS, call("fail")), answer("Done."))
    one.run("Go.", auto_approve_tools=True)
    assert one.results() == ["sunny", "error: exit code 3\nbroken"]


def test_a_call_that_cannot_be_run_asks_nothing_and_is_told_to_the_model(tmp_path: Path) -> None:
    broken = calling(call("get_wether"), call("get_weather", days="two", city="Rome"), "<tool_call>\nget_weather()")
    one = ToolChat(tmp_path, broken, answer("Sorry."))
    one.run("Go.")
    assert one.results() == [
        "error: no function is named 'get_wether'; available: get_weather, fail, long, hang, evil, weigh",
        "error: 'days' of get_weather must be of type integer, not \"two\"",
        "error: the call has no <function=NAME>",
    ]
    assert one.engine.requests[1].messages[1].content == "<tool_call>\nget_weather()"
    assert "no function is named 'get_wether'" in one.chat.text


def test_a_person_answers_for_a_function_without_a_command(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(call("weigh")), answer("Light."), typed=("3 kg",))
    one.run("How heavy?", auto_approve_tools=True)
    assert one.questions == ["result of weigh: "]
    assert one.results() == ["3 kg"]


@pytest.mark.parametrize("key", [KeyboardInterrupt, EOFError])
def test_ctrl_c_at_the_question_stops_the_round(tmp_path: Path, key: type[BaseException]) -> None:
    one = ToolChat(tmp_path, calling(PARIS, PARIS), answer("Fine."), typed=(key,))
    one.run("Go.", "Never mind.")
    stopped = ["error: the user stopped this call", "error: the user stopped before this call"]
    assert one.results() == stopped
    assert one.engine.requests[1].messages[-1] == Message("user", "Never mind.")


@pytest.mark.timeout(300)  # well below the 600 seconds for which it sleeps
def test_ctrl_c_stops_a_function_that_runs(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(call("hang")), answer("Fine."))
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert one.run("Go.", "Next.", auto_approve_tools=True) == ExitCode.OK
    assert one.results() == ["error: the user stopped this call"]


def test_a_model_that_calls_for_ever_is_stopped(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, *[calling(PARIS)] * MAX_ROUNDS, answer("Done."))
    one.run("Go.", "Go on.", auto_approve_tools=True)
    assert f"stopped after {MAX_ROUNDS} rounds of calls" in one.chat.text
    assert len(one.engine.requests) == MAX_ROUNDS + 1
    assert len(one.results(MAX_ROUNDS)) == MAX_ROUNDS


def test_an_answer_that_was_cut_runs_nothing(tmp_path: Path) -> None:
    cut = [*calling(PARIS)[:-1], replace(DONE, reason="length")]
    one = ToolChat(tmp_path, cut, answer("Yes."))
    one.run("Go.", "And?", auto_approve_tools=True)
    assert "[cut at" in one.chat.text
    assert one.engine.requests[1].messages[1] == Message("assistant", PARIS + "\n")


def test_after_a_crash_calls_and_results_are_there(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(PARIS), [CRASH])
    second = ScriptedEngine([answer("Sunny.")])
    one.chat.engines.append(second)
    one.run("Weather?", "So?", auto_approve_tools=True)
    roles = [message.role for message in second.requests[0].messages]
    assert roles == ["user", "assistant", "tool", "user"]


def test_a_result_too_long_for_the_context_takes_the_question_back(tmp_path: Path) -> None:
    full = QwenctlError("prompt has 41,210 tokens, context is 32,768", "-c 65536", ExitCode.BAD_DATA)
    one = ToolChat(tmp_path, calling(PARIS), [full], answer("Yes."))
    one.run("Weather?", "Short?", auto_approve_tools=True)
    assert one.engine.requests[2].messages == (Message("user", "Short?"),)


def test_results_are_cut_to_a_few_lines(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(call("long")), answer("Many."))
    one.run("Go.", auto_approve_tools=True)
    assert "\n  6\n  … 34 more lines\n" in one.chat.text
    assert one.results() == ["\n".join(map(str, range(1, 41)))]


def test_escapes_in_calls_and_results_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e"
    said = calling(call("evil"), call("get_weather", city=evil), call(f"x{evil}"), f"<tool_call>{evil}")
    one = ToolChat(tmp_path, said, answer("Done."), typed=("y", "y"))
    one.run("Go.")
    assert '→ get_weather(city="\\u001b]52;c;ZXZpbA==\\u0007\\u001b[2J\\u009b31m\\u202e")' in one.chat.text
    assert "tame" in one.chat.text
    assert not any(code in one.chat.output.getvalue() for code in ("\x1b]52", "\x1b[2J", "\x9b", "\u202e"))


def test_who_decides_on_a_call_sees_all_of_it(tmp_path: Path) -> None:
    city = "x" * 500 + "END"
    one = ToolChat(tmp_path, calling(call("get_weather", city=city)), answer("Done."), typed=("n",))
    one.run("Go.")
    assert city in one.chat.text.replace("\n", "")
    other = ToolChat(tmp_path, calling(call("get_weather", city=city)), answer("Done."))
    other.run("Go.", auto_approve_tools=True)
    assert "END" not in other.chat.text


def test_regen_undo_and_tools_know_of_calls(tmp_path: Path) -> None:
    one = ToolChat(tmp_path, calling(PARIS), answer("Sunny."), answer("Still sunny."), answer("Hello."))
    one.run("Weather?", "/regen", "/undo", "/tools", "Hi", auto_approve_tools=True)
    assert one.engine.requests[2].messages == (Message("user", "Weather?"),)
    assert one.engine.requests[3].messages == (Message("user", "Hi"),)
    assert "get_weather(city, days) Weather." in one.chat.text


def talk() -> Conversation:
    asked = Conversation(think=False).with_user("Weather?").with_turn(Message("assistant", "", "hm", (PARIS_CALL,)))
    return asked.with_results(["```\nsunny"]).with_answer("It is sunny.", "")


def test_a_session_keeps_calls_and_results(tmp_path: Path) -> None:
    opened = SessionStore(tmp_path).open("first")
    opened.save(talk(), Path("toy.gguf"), LOADED)
    opened.close()
    assert SessionStore(tmp_path).load("first").conversation == talk()


def test_a_resumed_chat_shows_calls_and_has_the_functions_of_today(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions")
    opened = store.open("first")
    opened.save(talk(), Path("toy.gguf"), LOADED)
    opened.close()
    one = ToolChat(tmp_path, answer("Yes."))
    one.run("Sure?", store=store, resume="first")
    assert '→ get_weather(city="Paris")' in one.chat.text
    assert "  sunny" in one.chat.text
    assert one.engine.requests[0].tools == one.functions.schemas
    assert one.engine.requests[0].messages[:-1] == talk().messages


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: message.update(tool_calls=7),
        lambda message: message.update(tool_calls=[7]),
        lambda message: message.update(tool_calls=[{"name": "f"}]),
        lambda message: message.update(tool_calls=[{"name": 7, "arguments": {}}]),
        lambda message: message.update(tool_calls=[{"name": "f", "arguments": "{}"}]),
        lambda message: message.update(content=None),
        lambda message: message.update(more="x"),
    ],
)
def test_a_session_with_a_damaged_call_is_told(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    opened = SessionStore(tmp_path).open("first")
    opened.save(talk(), Path("toy.gguf"), LOADED)
    opened.close()
    file = tmp_path / "first" / "conversation.json"
    fields = json.loads(file.read_text())
    spoil(fields["messages"][1])
    file.write_text(json.dumps(fields))
    with pytest.raises(QwenctlError, match="the saved conversation 'first' is damaged"):
        SessionStore(tmp_path).load("first")


def test_an_export_has_calls_and_results() -> None:
    text = export_text(talk(), "markdown")
    assert '```\nget_weather(city="Paris")\n```\n\n## Result\n\n````\n```\nsunny\n````\n\n## Answer' in text
    messages = json.loads(export_text(talk(), "json"))["messages"]
    assert messages[1]["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    assert messages[2] == {"role": "tool", "content": "```\nsunny", "thinking": "", "tool_calls": []}
