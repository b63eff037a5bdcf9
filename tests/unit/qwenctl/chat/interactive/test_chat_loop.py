"""The chat loop and its screen, with a scripted engine."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.pasted_paths import split_dropped_file
from qwenctl.protocol.messages import (
    GenerationFinished,
    Message,
    TextDelta,
    Usage,
)
from tests.support.scripted_engine import CRASH, DONE, Chat, ScriptedEngine, answer


def test_answer_is_shown_with_figures_and_sent_with_next_question() -> None:
    engine = ScriptedEngine([answer("**Bold** [x](http://a.example)\n"), answer("Yes.")])
    chat = Chat(engine)
    assert chat.run("Really?", "Sure?") == ExitCode.OK
    assert "Bold x" in chat.text
    assert "10.0 tokens/s · first token 0.25 s · prompt 100/s · context 1,234/32,768" in chat.text
    assert engine.requests[1].messages == (
        Message("user", "Really?"),
        Message("assistant", "**Bold** [x](http://a.example)\n"),
        Message("user", "Sure?"),
    )
    assert engine.prepared[0] == engine.requests[1].messages[:-1]
    assert engine.closed
    assert "\x1b]8" not in chat.output.getvalue()


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "escaped", "url"])
def test_file_dropped_on_the_terminal_is_attached(tmp_path: Path, form: str) -> None:
    path = tmp_path / "some notes.txt"
    path.write_text("remember the milk")
    forms = {"escaped": str(path).replace(" ", "\\ "), "url": path.as_uri()}
    dropped = forms.get(form) or form.format(path)
    engine = ScriptedEngine([answer("Milk."), answer("Milk.")])
    chat = Chat(engine)
    chat.run(f"{dropped} ", "What is in it?", *([] if form == "{}" else [f"{dropped} What is it?"]), "/no such command")
    assert "will be sent with the next question" in chat.text
    for request in engine.requests:
        assert "remember the milk" in request.messages[-1].content
    assert engine.requests[0].messages[-1].content.endswith("\n\nWhat is in it?")
    assert "no such command: /no" in chat.text


def test_folder_alone_on_a_line_is_not_attached(tmp_path: Path) -> None:
    assert split_dropped_file(f"{tmp_path}") == ("", "")


def test_thinking_is_collapsed_to_one_line_and_shown_on_request() -> None:
    chat = Chat(ScriptedEngine([answer("Four.", "secret thought"), answer("x")]))
    chat.run("2+2?")
    assert "2 tokens (/thinking shows it)" in chat.text
    assert "secretthought" not in chat.text
    again = Chat(ScriptedEngine([answer("Four.", "secret thought")]))
    again.run("2+2?", "/thinking")
    assert "secretthought" in again.text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10)])
def test_long_answer_prints_each_line_once(width: int, height: int) -> None:
    text = "".join(f"this is line{i}\n" + "\n" * (i % 3 == 0) for i in range(500))
    text += "```python\n" + "".join(f"code_{i} = {i}\n" for i in range(500)) + "```\nend.\n"
    chat = Chat(ScriptedEngine([answer(text)]), width=width, height=height)
    chat.run("Go on.")
    words = chat.text.split()
    assert [words.count(f"line{i}") for i in range(500)] == [1] * 500
    assert [words.count(f"code_{i}") for i in range(500)] == [1] * 500
    assert len(chat.output.getvalue()) < 40 * len(text)


def test_list_taller_than_terminal_is_printed_once() -> None:
    text = "".join(f"{i}. item{i}\n" for i in range(1, 101))
    events = answer(text)
    slow = [part for event in events for part in (event, lambda: time.sleep(0.004))]
    chat = Chat(ScriptedEngine([slow]), width=60, height=12)
    chat.run("List.")
    words = chat.text.split()
    assert [words.count(f"item{i}") for i in range(1, 101)] == [1] * 100


def test_escape_sequences_from_model_do_not_reach_terminal() -> None:
    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2Jsafe [/red] :smile: \x9b31m\n"
    chat = Chat(ScriptedEngine([answer(evil, "\x1b]0;evil\x07")]))
    chat.run("Hi", "/thinking")
    assert "safe [/red] :smile:" in chat.text
    assert not any(code in chat.output.getvalue() for code in ("\x1b]52", "\x1b[2J", "\x9b", "\x1b]0"))


@pytest.mark.parametrize(
    ("finished", "line"),
    [
        (GenerationFinished("length", DONE.usage, DONE.timings), "[cut at 7 tokens (-n)]"),
        (
            GenerationFinished("context", Usage(1, 0, 0, 1, 32_768)),
            "[cut: the context of 32,768 tokens is full (-c sets its size)]",
        ),
        (GenerationFinished("cancelled", DONE.usage, DONE.timings), "[stopped]"),
    ],
)
def test_incomplete_answer_shows_reason(finished: GenerationFinished, line: str) -> None:
    chat = Chat(ScriptedEngine([[TextDelta("Half", "answer"), finished]]))
    chat.run("Hi", max_tokens=7)
    assert line in chat.text


def test_context_nearly_full_is_reported() -> None:
    nearly = GenerationFinished("stop", Usage(1, 0, 0, 1, 30_000))
    chat = Chat(ScriptedEngine([[TextDelta("Hi", "answer"), nearly]]))
    chat.run("Hi")
    assert "the context is nearly full" in chat.text


def test_crash_keeps_conversation_and_next_line_starts_new_engine() -> None:
    first = ScriptedEngine([[TextDelta("Half an", "answer"), CRASH]])
    second = ScriptedEngine([answer("Whole.")])
    chat = Chat(first, second)
    assert chat.run("Tell me.", "Go on.") == ExitCode.OK
    assert "error: the model engine stopped (SIGABRT)" in chat.text
    assert "the conversation is saved" in chat.text
    assert "Half an" in chat.text
    assert "Whole." in chat.text
    assert [message.content for message in second.requests[0].messages] == ["Tell me.", "Half an", "Go on."]
    assert first.closed
    assert second.closed


def test_question_can_be_asked_again_after_crash_before_first_word() -> None:
    second = ScriptedEngine([answer("Whole.")])
    chat = Chat(ScriptedEngine([[CRASH]]), second)
    chat.run("Tell me.", "/stats", "/regen")
    assert second.requests[0].messages == (Message("user", "Tell me."),)


def test_question_too_long_for_context_is_removed() -> None:
    too_long = QwenctlError("prompt has 41,210 tokens, context is 32,768", "-c 65536", ExitCode.BAD_DATA)
    engine = ScriptedEngine([[too_long], answer("Yes.")])
    chat = Chat(engine)
    chat.run("Long.", "Short?")
    assert "error: prompt has 41,210 tokens, context is 32,768" in chat.text
    assert "hint: -c 65536" in chat.text
    assert engine.requests[1].messages == (Message("user", "Short?"),)


def test_chat_loop_runs_slash_commands() -> None:
    engine = ScriptedEngine([answer("A."), answer("B.")])
    chat = Chat(engine)
    chat.run("/think off", "/set temp 0.25", "/system Be brief.", "Hi", "/stats", "/hlep", "/regen", "/quit", "never")
    assert engine.requests[0].enable_thinking is False
    assert engine.requests[0].sampling.temperature == 0.25
    assert (
        engine.requests[1].messages
        == engine.requests[0].messages
        == (
            Message("system", "Be brief."),
            Message("user", "Hi"),
        )
    )
    assert "memory 47.7 MiB" in chat.text
    assert re.search(r"last answer: .* tokens/s", chat.text)
    assert "did you mean /help?" in chat.text


def test_private_keeps_what_was_saved_and_saves_nothing_more(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    chat = Chat(ScriptedEngine([answer("First."), answer("Second.")]))
    chat.run("One?", "/private", "Two?", store=store)
    [name] = store.names()
    assert [message.content for message in store.load(name).conversation.messages] == ["One?", "First."]
    assert f"stays saved as {name}" in " ".join(chat.text.split())
    store.delete(name)  # it is not locked


def test_private_chat_saves_nothing(tmp_path: Path) -> None:
    Chat(ScriptedEngine([answer("First.")])).run("/private", "One?", store=SessionStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("reply", "stays"), [("y", False), ("YES ", False), ("n", True), ("", True), (None, True)])
@pytest.mark.parametrize("by_name", [False, True])
def test_delete_asks_first(tmp_path: Path, reply: str | None, stays: bool, by_name: bool) -> None:
    store = SessionStore(tmp_path)
    Chat(ScriptedEngine([answer("Old.")])).run("Earlier?", store=store)
    [earlier] = store.names()
    asked = []

    def ask(question: str) -> str:
        asked.append(question)
        if reply is None:
            raise KeyboardInterrupt
        return reply

    command = f"/delete {earlier}" if by_name else "/delete"
    Chat(ScriptedEngine([answer("First."), answer("Second.")])).run("One?", command, "Two?", store=store, ask=ask)
    assert len(asked) == 1
    left = {name.split("-", 3)[3] for name in store.names()}
    gone = set() if stays else {"earlier" if by_name else "one"}
    assert left == {"earlier", "one"} - gone


def test_delete_without_a_saved_conversation_is_an_error(tmp_path: Path) -> None:
    chat = Chat(ScriptedEngine([answer("First.")]))
    chat.run("/delete", "/delete nothing", "/private", "One?", "/delete", store=SessionStore(tmp_path))
    assert chat.text.count("this conversation is not saved") == 3
    assert "no saved conversation is named 'nothing'" in chat.text
