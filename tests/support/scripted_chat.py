"""A chat on this terminal whose engine gives scripted answers: `python -m tests.support.scripted_chat FILE`.

The file is JSON: a list of answers, each a list of [channel, text, seconds to wait before it]; "until stopped" waits
for Ctrl-C. The line input, the loop and the screen are the program's own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.line_input import LineInput, open_history
from qwenctl.chat.interactive.loop import run_chat
from qwenctl.chat.interactive.screen import Screen, make_console
from qwenctl.chat.interactive.state import ChatSetup
from qwenctl.engine.interface import LoadedEngine
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import PrefillProgress, TextDelta
from qwenctl.terminal.keyboard import Keyboard
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
        return run_chat(ChatSetup(open_model, read_line, screen, Conversation(), keyboard=keyboard))


if __name__ == "__main__":
    sys.exit(main())
