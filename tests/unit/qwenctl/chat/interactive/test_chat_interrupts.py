"""Ctrl-C in a chat: once stops the answer, twice ends the chat, and at the prompt it does neither."""

from __future__ import annotations

import os
import signal

from qwenctl.chat.interactive.screen import Screen, make_console
from qwenctl.errors import ExitCode
from qwenctl.protocol.messages import GenerationFinished, Message, TextDelta
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
