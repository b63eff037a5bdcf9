"""A chat on this terminal whose engine gives scripted answers: `python -m tests.support.scripted_chat FILE [STORE]`.

The file is JSON: a list of answers, each a list of [channel, text, seconds to wait before it]; "until stopped" waits
for Ctrl-C. Conversations are saved in the folder STORE. The line input, the loop and the screen are the program's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.line_input import LineInput, open_history
from qwenctl.chat.interactive.loop import run_chat
from qwenctl.chat.interactive.screen import Screen, make_console
from qwenctl.chat.interactive.state import ChatSetup
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import PrefillProgress, TextDelta
from qwenctl.terminal.keyboard import Keyboard
from qwenctl.terminal.signals import requested_exit, termination_as_exit
from tests.support.scripted_engine import DONE, LOADED, Emitted, ScriptedEngine


def _answer(
    parts: list[tuple[str, str, float]], wait_for_stop: Callable[[], None]
) -> list[Emitted | Exception | Callable[[], None]]:
    events: list[Emitted | Exception | Callable[[], None]] = []
    for channel, text, seconds in parts:
        if seconds:
            events.append(lambda seconds=seconds: time.sleep(seconds))  # type: ignore[misc]
        if channel == "until stopped":
            events.append(wait_for_stop)
        elif channel == "prompt":
            events.append(PrefillProgress(int(text), 100))
        else:
            events.append(TextDelta(text, "thinking" if channel == "thinking" else "answer"))
    return [*events, DONE]


def main() -> int:
    """Run the chat; returns its exit code."""
    engine = ScriptedEngine([])
    answers = json.loads(Path(sys.argv[1]).read_text())
    engine.answers = [_answer(answer, lambda: engine.cancelled.wait(60) and None) for answer in answers]
    console = make_console("auto")
    screen = Screen(console)

    def open_model() -> LoadedEngine:
        screen.follow_loading("toy.gguf", engine.load(Path("toy.gguf"), LoadParams()))
        return LoadedEngine(engine, LOADED)

    with Keyboard() as keyboard:
        read_line = LineInput(open_history(None), keyboard=keyboard)
        store = SessionStore(Path(sys.argv[2])) if len(sys.argv) > 2 else None
        setup = ChatSetup(open_model, read_line, screen, Conversation(), store=store, keyboard=keyboard)
        try:
            with termination_as_exit():
                return run_chat(setup)
        except OSError as error:  # of a terminal that is gone, as in `cli.main`
            os._exit(requested_exit(error) or ExitCode.IO)


if __name__ == "__main__":
    sys.exit(main())
