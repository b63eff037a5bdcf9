"""A chat on this terminal whose engine gives scripted answers: `python -m tests.support.scripted_chat FILE`.

The file is JSON: a list of answers, each a list of [channel, text, seconds to wait before it]. The line input, the loop
and the screen are the program's own.
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
from tests.support.scripted_engine import DONE, LOADED, Emitted, ScriptedEngine


def _answer(parts: list[tuple[str, str, float]]) -> list[Emitted | Exception | Callable[[], None]]:
    events: list[Emitted | Exception | Callable[[], None]] = []
    for channel, text, seconds in parts:
        if seconds:
            events.append(lambda seconds=seconds: time.sleep(seconds))  # type: ignore[misc]
        if channel == "prompt":
            events.append(PrefillProgress(int(text), 100))
        else:
            events.append(TextDelta(text, "thinking" if channel == "thinking" else "answer"))
    return [*events, DONE]


def main() -> int:
    """Run the chat; returns its exit code."""
    answers = [_answer(answer) for answer in json.loads(Path(sys.argv[1]).read_text())]
    console = make_console("auto")
    screen = Screen(console)
    engine = ScriptedEngine(answers)

    def open_model() -> LoadedEngine:
        screen.follow_loading("toy.gguf", engine.load(Path("toy.gguf"), LoadParams()))
        return LoadedEngine(engine, LOADED)

    return run_chat(ChatSetup(open_model, LineInput(open_history(None)), screen, Conversation()))


if __name__ == "__main__":
    sys.exit(main())
