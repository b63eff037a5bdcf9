"""A chat on a terminal emulator, with an engine that gives scripted answers."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyte

from qwenctl.chat.build_request import AnswerLimits
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.loop import run_chat
from qwenctl.chat.interactive.screen import Screen, make_console
from qwenctl.chat.interactive.state import ChatSetup
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import LoadParams, LoadProgress, ModelInfo
from qwenctl.protocol.messages import (
    EngineStats,
    Flushed,
    Generate,
    GenerationFinished,
    Message,
    PrefillProgress,
    Restored,
    TextDelta,
    Timings,
    Tools,
    Usage,
)

Emitted = PrefillProgress | TextDelta | GenerationFinished
LOADED = ModelInfo("toy", "qwen35moe", "qwen35moe 12M Q8_0", 12_000_000, 12_000_000, 32_768, 262_144)
DONE = GenerationFinished("stop", Usage(10, 0, 2, 3, 1_234), Timings(0.1, 0.25, 0.5))
CRASH = QwenctlError("the model engine stopped (SIGABRT)", "qwenctl chat …", ExitCode.ENGINE_CRASHED)


class ScriptedEngine:
    """An engine that emits one list of events for each answer; exceptions in it are raised, functions are called."""

    def __init__(self, answers: Sequence[Sequence[Emitted | Exception | Callable[[], None]]]) -> None:
        self.answers = list(answers)
        self.requests: list[Generate] = []
        self.prepared: list[tuple[Message, ...]] = []
        self.cancelled = threading.Event()
        self.closed = False

    def load(self, path: Path, settings: LoadParams) -> Iterator[LoadProgress | ModelInfo]:
        yield from (LoadProgress(0.5), LOADED)

    def generate(self, request: Generate) -> Iterator[Emitted]:
        self.requests.append(request)
        for event in self.answers.pop(0):
            if isinstance(event, Exception):
                raise event
            if callable(event):
                event()
            else:
                yield event

    def warm_prefix(
        self, messages: tuple[Message, ...], *, enable_thinking: bool, tools: Tools = (), state_path: Path | None = None
    ) -> None:
        self.prepared.append(messages)

    def restore(self, path: Path) -> Restored:
        return Restored(0, "it is not there")

    def count(self, text: str) -> int:
        return len(text.split())

    def count_prompt(self, messages: tuple[Message, ...], *, enable_thinking: bool, tools: Tools = ()) -> int:
        return sum(len(message.content.split()) for message in messages)

    def flush(self) -> Flushed:
        return Flushed()

    def cancel(self) -> None:
        self.cancelled.set()

    def stats(self) -> EngineStats:
        return EngineStats(32_768, 1_234, 50_000_000)

    def close(self) -> None:
        self.closed = True


class Chat:
    """One run of the chat loop on an emulated terminal of `width` x `height`."""

    def __init__(self, *engines: ScriptedEngine, width: int = 80, height: int = 24) -> None:
        self.engines, self.opened = list(engines), 0
        self.output = io.StringIO()
        console = make_console("always", self.output)
        console.width, console.height = width, height
        self.screen = Screen(console)
        self.terminal = pyte.HistoryScreen(width, height, history=100_000, ratio=0.5)

    def run(self, *lines: str | type[BaseException], max_tokens: int = -1, **setup: Any) -> ExitCode:
        remaining = list(lines)

        def read_line(_prefill: str) -> str:
            line = remaining.pop(0) if remaining else EOFError
            if isinstance(line, str):
                return line
            raise line

        talk = setup.pop("conversation", Conversation())
        code = run_chat(ChatSetup(self._open, read_line, self.screen, talk, AnswerLimits(max_tokens), **setup))
        pyte.Stream(self.terminal).feed(self.output.getvalue().replace("\n", "\r\n"))
        return code

    def _open(self) -> LoadedEngine:
        engine = self.engines[self.opened]
        self.opened += 1
        return LoadedEngine(engine, self.screen.follow_loading("toy.gguf", engine.load(Path("toy.gguf"), LoadParams())))

    @property
    def lines(self) -> list[str]:
        """All lines of the terminal, including those that scrolled off."""
        before = ["".join(row[x].data for x in range(self.terminal.columns)) for row in self.terminal.history.top]
        return [line.rstrip() for line in (*before, *self.terminal.display)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def answer(text: str, thinking: str = "") -> list[Emitted]:
    """The events of an answer: prefill progress, thinking by word, text by line, end."""
    thought = [TextDelta(piece, "thinking") for piece in thinking.split()]
    answer_deltas = [TextDelta(piece, "answer") for piece in text.splitlines(keepends=True)]
    return [PrefillProgress(5, 10), *thought, *answer_deltas, DONE]
