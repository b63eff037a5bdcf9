"""Tool calls in an interactive chat: display, approval, execution, results. The engine is scripted."""

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

from qwenctl.chat.conversation import Conversation, ConversationChanges
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


def answer_with_calls(*calls: str, text: str = "", thinking: str = "") -> list[Emitted]:
    """The events of an answer that calls functions: thinking and text, if any, then the calls."""
    before = [TextDelta(thinking, "thinking")] if thinking else []
    return [
        *before,
        *([TextDelta(text, "answer")] if text else []),
        *(TextDelta(text_of_call + "\n", "call") for text_of_call in calls),
        DONE,
    ]


class ToolChat:
    """A chat with functions. `typed` has the user's replies to its questions; an exception in it is raised."""

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
            reply = self.typed.pop(0)
            if isinstance(reply, str):
                return reply
            raise reply

        conversation = Conversation(tools=self.functions.schemas)
        return self.chat.run(*lines, conversation=conversation, functions=self.functions, ask=ask, **setup)

    def results(self, request: int = 1) -> list[str]:
        """The results of function calls in request number `request` to the model."""
        return [message.content for message in self.engine.requests[request].messages if message.role == "tool"]


def test_tool_call_is_shown_and_run_after_yes(tmp_path: Path) -> None:
    tool_chat = ToolChat(
        tmp_path, answer_with_calls(PARIS, text="Let me look.\n", thinking="hm"), answer("It is sunny."), typed=("y",)
    )
    assert tool_chat.run("Weather in Paris?") == ExitCode.OK
    assert '→ get_weather(city="Paris")' in tool_chat.chat.text
    assert "\n  sunny\n" in tool_chat.chat.text
    assert "It is sunny." in tool_chat.chat.text
    assert "<tool_call>" not in tool_chat.chat.text
    assert tool_chat.chat.text.count("tokens/s") == 1
    assert tool_chat.questions == ["run it? [y]es [n]o [a]lways: "]
    assert [tool["function"]["name"] for tool in tool_chat.engine.requests[0].tools][:2] == ["get_weather", "fail"]
    assert tool_chat.engine.requests[1].messages == (
        Message("user", "Weather in Paris?"),
        Message("assistant", "Let me look.\n", "hm", (PARIS_CALL,)),
        Message("tool", "sunny"),
    )
    assert tool_chat.engine.prepared[-1] == (
        *tool_chat.engine.requests[1].messages,
        Message("assistant", "It is sunny."),
    )


def test_always_approves_later_calls_of_the_same_function(tmp_path: Path) -> None:
    calls = answer_with_calls(PARIS, call("get_weather", city="Rome"), call("fail"))
    tool_chat = ToolChat(
        tmp_path, calls, answer_with_calls(PARIS), answer("Done."), typed=("what", "", " Always ", "no")
    )
    tool_chat.run("Go.")
    assert tool_chat.results(2) == ["sunny", "sunny", REFUSED, "sunny"]
    assert len(tool_chat.questions) == 4


def test_auto_approve_runs_functions_without_asking(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(PARIS, call("fail")), answer("Done."))
    tool_chat.run("Go.", auto_approve_tools=True)
    assert tool_chat.results() == ["sunny", "error: exit code 3\nbroken"]


def test_invalid_call_is_reported_to_the_model_without_asking(tmp_path: Path) -> None:
    invalid = answer_with_calls(call("get_wether"), call("get_weather", days="two", city="Rome"))
    tool_chat = ToolChat(tmp_path, invalid, answer("Sorry."))
    tool_chat.run("Go.")
    assert tool_chat.results() == [
        "error: no function is named 'get_wether'; available: get_weather, fail, long, hang, evil, weigh",
        "error: 'days' of get_weather must be of type integer, not \"two\"",
    ]
    assert "no function is named 'get_wether'" in tool_chat.chat.text


@pytest.mark.parametrize("broken", ["<tool_call>\nget_weather()", PARIS.replace("</parameter>", "</parameter>\n" * 2)])
def test_call_that_cannot_be_delimited_runs_nothing_and_tells_the_model(tmp_path: Path, broken: str) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(PARIS, broken), answer("Sorry."))
    tool_chat.run("Go.", auto_approve_tools=True)
    [result] = tool_chat.results()
    assert result.endswith("; no function was run; write all calls again in the given format")
    assert tool_chat.engine.requests[1].messages[1] == Message("assistant", f"{PARIS}\n{broken}")
    assert f"error: {result[7:40]}" in tool_chat.chat.text


def test_function_without_command_asks_the_user_for_its_result(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(call("weigh")), answer("Light."), typed=("3 kg",))
    tool_chat.run("How heavy?", auto_approve_tools=True)
    assert tool_chat.questions == ["result of weigh: "]
    assert tool_chat.results() == ["3 kg"]


@pytest.mark.parametrize("key", [KeyboardInterrupt, EOFError])
def test_ctrl_c_or_ctrl_d_at_the_approval_prompt_stops_the_round(tmp_path: Path, key: type[BaseException]) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(PARIS, PARIS), answer("Fine."), typed=(key,))
    tool_chat.run("Go.", "Never mind.")
    stopped = ["error: the user stopped this call", "error: the user stopped before this call"]
    assert tool_chat.results() == stopped
    assert tool_chat.engine.requests[1].messages[-1] == Message("user", "Never mind.")


@pytest.mark.timeout(300)  # well below the 600 seconds for which the function sleeps
def test_ctrl_c_stops_a_running_function(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(call("hang")), answer("Fine."))
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert tool_chat.run("Go.", "Next.", auto_approve_tools=True) == ExitCode.OK
    assert tool_chat.results() == ["error: the user stopped this call"]


def test_endless_calls_stop_after_the_maximum_rounds(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, *[answer_with_calls(PARIS)] * MAX_ROUNDS, answer("Done."))
    tool_chat.run("Go.", "Go on.", auto_approve_tools=True)
    assert f"stopped after {MAX_ROUNDS} rounds of calls" in tool_chat.chat.text
    assert len(tool_chat.engine.requests) == MAX_ROUNDS + 1
    assert len(tool_chat.results(MAX_ROUNDS)) == MAX_ROUNDS


def test_truncated_answer_runs_no_function(tmp_path: Path) -> None:
    cut = [*answer_with_calls(PARIS)[:-1], replace(DONE, reason="length")]
    tool_chat = ToolChat(tmp_path, cut, answer("Yes."))
    tool_chat.run("Go.", "And?", auto_approve_tools=True)
    assert "[cut at" in tool_chat.chat.text
    assert tool_chat.engine.requests[1].messages[1] == Message("assistant", PARIS + "\n")


def test_calls_and_results_survive_an_engine_crash(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(PARIS), [CRASH])
    second = ScriptedEngine([answer("Sunny.")])
    tool_chat.chat.engines.append(second)
    tool_chat.run("Weather?", "So?", auto_approve_tools=True)
    roles = [message.role for message in second.requests[0].messages]
    assert roles == ["user", "assistant", "tool", "user"]


def test_result_longer_than_the_context_removes_the_question(tmp_path: Path) -> None:
    overflow = QwenctlError("prompt has 41,210 tokens, context is 32,768", "-c 65536", ExitCode.BAD_DATA)
    tool_chat = ToolChat(tmp_path, answer_with_calls(PARIS), [overflow], answer("Yes."))
    tool_chat.run("Weather?", "Short?", auto_approve_tools=True)
    assert tool_chat.engine.requests[2].messages == (Message("user", "Short?"),)


def test_long_result_is_shown_shortened_and_sent_whole(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(call("long")), answer("Many."))
    tool_chat.run("Go.", auto_approve_tools=True)
    assert "\n  6\n  … 34 more lines\n" in tool_chat.chat.text
    assert tool_chat.results() == ["\n".join(map(str, range(1, 41)))]


def test_escape_codes_in_calls_and_results_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e"
    calls = answer_with_calls(call("evil"), call("get_weather", city=evil), call(f"x{evil}"))
    tool_chat = ToolChat(tmp_path, calls, answer_with_calls(f"<tool_call>{evil}"), answer("Done."), typed=("y", "y"))
    tool_chat.run("Go.")
    assert '→ get_weather(city="\\u001b]52;c;ZXZpbA==\\u0007\\u001b[2J\\u009b31m\\u202e")' in tool_chat.chat.text
    assert "tame" in tool_chat.chat.text
    assert not any(code in tool_chat.chat.output.getvalue() for code in ("\x1b]52", "\x1b[2J", "\x9b", "\u202e"))


def test_long_call_is_shown_whole_for_approval_and_shortened_otherwise(tmp_path: Path) -> None:
    city = "x" * 500 + "END"
    tool_chat = ToolChat(tmp_path, answer_with_calls(call("get_weather", city=city)), answer("Done."), typed=("n",))
    tool_chat.run("Go.")
    assert city in tool_chat.chat.text.replace("\n", "")
    approved_chat = ToolChat(tmp_path, answer_with_calls(call("get_weather", city=city)), answer("Done."))
    approved_chat.run("Go.", auto_approve_tools=True)
    assert "END" not in approved_chat.chat.text


def test_regen_undo_and_tools_commands_handle_calls(tmp_path: Path) -> None:
    tool_chat = ToolChat(tmp_path, answer_with_calls(PARIS), answer("Sunny."), answer("Still sunny."), answer("Hello."))
    tool_chat.run("Weather?", "/regen", "/undo", "/tools", "Hi", auto_approve_tools=True)
    assert tool_chat.engine.requests[2].messages == (Message("user", "Weather?"),)
    assert tool_chat.engine.requests[3].messages == (Message("user", "Hi"),)
    assert "get_weather(city, days) Weather." in tool_chat.chat.text


def conversation_with_call() -> Conversation:
    question_and_call = (
        Conversation(think=False).with_user("Weather?").with_turn(Message("assistant", "", "hm", (PARIS_CALL,)))
    )
    return question_and_call.with_results(["```\nsunny"]).with_answer("It is sunny.", "")


def test_session_saves_calls_and_results(tmp_path: Path) -> None:
    opened = SessionStore(tmp_path).open("first")
    opened.save(conversation_with_call(), Path("toy.gguf"), LOADED)
    opened.close()
    assert SessionStore(tmp_path).load("first").conversation == conversation_with_call()


def test_resumed_chat_shows_old_calls_and_offers_current_functions(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions")
    opened = store.open("first")
    opened.save(conversation_with_call(), Path("toy.gguf"), LOADED)
    opened.close()
    tool_chat = ToolChat(tmp_path, answer("Yes."))
    tool_chat.run("Sure?", store=store, resume="first")
    assert '→ get_weather(city="Paris")' in tool_chat.chat.text
    assert "  sunny" in tool_chat.chat.text
    assert tool_chat.engine.requests[0].tools == tool_chat.functions.schemas
    assert tool_chat.engine.requests[0].messages[:-1] == conversation_with_call().messages


def test_resumed_chat_obeys_the_changes_given_beside_it(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions")
    opened = store.open("first")
    opened.save(conversation_with_call(), Path("toy.gguf"), LOADED)
    opened.close()
    tool_chat = ToolChat(tmp_path, answer("Yes."))
    changes = ConversationChanges("Be brief.", think=True, think_budget=5, sampling={"temperature": 0.0})
    tool_chat.run("Sure?", store=store, resume="first", changes=changes)
    [request] = tool_chat.engine.requests
    assert request.messages[0] == Message("system", "Be brief.")
    assert request.messages[1:-1] == conversation_with_call().messages
    assert (request.enable_thinking, request.think_budget, request.sampling.temperature) == (True, 5, 0.0)


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
    ids=[
        "calls-not-a-list",
        "call-not-an-object",
        "call-without-arguments",
        "name-not-text",
        "arguments-not-an-object",
        "content-missing",
        "unknown-field",
    ],
)
def test_session_with_damaged_call_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    opened = SessionStore(tmp_path).open("first")
    opened.save(conversation_with_call(), Path("toy.gguf"), LOADED)
    opened.close()
    file = tmp_path / "first" / "conversation.json"
    fields = json.loads(file.read_text())
    spoil(fields["messages"][1])
    file.write_text(json.dumps(fields))
    with pytest.raises(QwenctlError, match="the saved conversation 'first' is damaged"):
        SessionStore(tmp_path).load("first")


def test_export_contains_calls_and_results() -> None:
    text = export_text(conversation_with_call(), "markdown")
    assert '```\nget_weather(city="Paris")\n```\n\n## Result\n\n````\n```\nsunny\n````\n\n## Answer' in text
    messages = json.loads(export_text(conversation_with_call(), "json"))["messages"]
    assert messages[1]["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Paris"}}]
    assert messages[2] == {"role": "tool", "content": "```\nsunny", "thinking": "", "tool_calls": []}
