"""Ctrl-C in a chat: once stops the answer, twice ends the chat, and at the prompt it does neither.

Whatever else ends a chat while the model answers, the question and what there is of the answer are saved.
"""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from qwenctl.chat.interactive.screen import Screen, make_console
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode
from qwenctl.protocol.messages import GenerationFinished, Message, TextDelta
from qwenctl.terminal.signals import requested_exit, termination_as_exit
from tests.support.scripted_engine import DONE, Chat, ScriptedEngine, answer


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_first_ctrl_c_stops_answer_and_keeps_its_text() -> None:
    cancelled = GenerationFinished("cancelled", DONE.usage, DONE.timings)
    engine = ScriptedEngine([[TextDelta("Half", "answer"), interrupt, cancelled], answer("Yes.")])
    chat = Chat(engine)
    assert chat.run("Hi", "And?") == ExitCode.OK
    assert engine.cancelled.is_set()
    assert engine.requests[1].messages[1] == Message("assistant", "Half")


def test_second_ctrl_c_ends_chat() -> None:
    engine = ScriptedEngine([[TextDelta("Half", "answer"), interrupt, interrupt, DONE]])
    assert Chat(engine).run("Hi") == ExitCode.INTERRUPTED
    assert engine.closed


def test_ctrl_c_at_prompt_shows_how_to_quit() -> None:
    chat = Chat(ScriptedEngine([]))
    assert chat.run(KeyboardInterrupt, "  ", EOFError) == ExitCode.OK
    assert "Ctrl-D quits" in chat.text


def test_ctrl_c_between_two_lines_does_not_end_chat() -> None:
    chat = Chat(ScriptedEngine([answer("Hello.")]))
    keys = [interrupt]

    class InterruptingScreen(Screen):
        def show_note(self, *lines: str) -> None:
            super().show_note(*lines)
            if "Ctrl-D quits" in lines and keys:
                keys.pop()()

    chat.screen = InterruptingScreen(make_console("always", chat.output))
    assert chat.run(KeyboardInterrupt, "Hi") == ExitCode.OK
    assert chat.text.count("Ctrl-D quits") == 3  # at the start, and once for each interrupt
    assert "Hello." in chat.text


class DeadTerminal(io.StringIO):
    """A terminal that is gone after `die`: every write fails."""

    dead = False

    def write(self, text: str) -> int:
        if self.dead:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)

    def die(self) -> None:
        self.dead = True


def saved_messages(folder: Path) -> list[tuple[str, str]]:
    store = SessionStore(folder)
    [name] = store.names()
    store.open(name).close()  # it is not locked
    return [(message.role, message.content) for message in store.load(name).conversation.messages]


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("terminal_dies", [False, True])
@pytest.mark.parametrize("shown", ["", "Half"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_signal_that_ends_a_chat_saves_question_and_answer(
    tmp_path: Path, number: signal.Signals, code: int, shown: str, terminal_dies: bool
) -> None:
    chat = Chat(ScriptedEngine([]))
    chat.output = terminal = DeadTerminal()
    chat.screen = Screen(make_console("always", terminal))
    begin = [TextDelta(shown, "answer")] if shown else []
    dies = [terminal.die] if terminal_dies else []
    chat.engines[0].answers = [answer("First."), [*begin, *dies, send(number), TextDelta("never", "answer")]]
    with pytest.raises((SystemExit, OSError)) as ended, termination_as_exit():
        chat.run("One?", "Two?", store=SessionStore(tmp_path))
    assert requested_exit(ended.value) == code
    half = [("assistant", shown)] if shown else []
    assert saved_messages(tmp_path) == [("user", "One?"), ("assistant", "First."), ("user", "Two?"), *half]
    assert chat.engines[0].closed


def test_dead_terminal_without_a_signal_saves_question_and_answer(tmp_path: Path) -> None:
    chat = Chat(ScriptedEngine([]))
    chat.output = terminal = DeadTerminal()
    chat.screen = Screen(make_console("always", terminal))
    chat.engines[0].answers = [
        [TextDelta("# Half\n\n", "answer"), terminal.die, TextDelta("of it\n\n", "answer"), DONE]
    ]
    with pytest.raises(OSError, match="Input/output"):
        chat.run("One?", store=SessionStore(tmp_path))
    assert saved_messages(tmp_path)[0] == ("user", "One?")
    assert saved_messages(tmp_path)[1][1].startswith("# Half")


def test_second_ctrl_c_saves_question_and_answer(tmp_path: Path) -> None:
    engine = ScriptedEngine([[TextDelta("Half", "answer"), interrupt, interrupt, DONE]])
    assert Chat(engine).run("Hi", store=SessionStore(tmp_path)) == ExitCode.INTERRUPTED
    assert saved_messages(tmp_path) == [("user", "Hi"), ("assistant", "Half")]


def test_second_signal_does_not_interrupt_the_saving() -> None:
    def hang_up_and_terminate() -> None:
        try:
            send(signal.SIGHUP)()
        finally:
            send(signal.SIGTERM)()

    with pytest.raises(SystemExit) as ended, termination_as_exit():
        hang_up_and_terminate()
    assert ended.value.code == ExitCode.HUNG_UP


def test_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with termination_as_exit():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
