"""One prompt in, one answer out: what a pipe or a script uses.

Bytes of standard input and the words of the command line come in; on standard output goes the answer and nothing else,
each piece as soon as it is there, or one JSON object at the end. Everything said besides goes to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.messages import GenerationFinished, PrefillProgress, TextDelta, ToolCall
from qwenctl.terminal.sanitize import decode, replace_surrogates
from qwenctl.terminal.streams import StatusLine
from qwenctl.views.answer import ending, figures, reading

MAX_PROMPT_BYTES = 64 * 2**20  # far above any context; keeps `qwenctl chat < /dev/zero` from filling the memory
Write = Callable[[str], None]


@dataclass(frozen=True)
class CompletedAnswer:
    """A whole answer. `text`, `thinking` and `calls` are as the model wrote them, `tool_calls` what that means."""

    text: str
    thinking: str
    finished: GenerationFinished
    calls: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def read_prompt(words: Sequence[str], stdin: BinaryIO | None, warn: Write) -> str:
    """The prompt: standard input (None: a terminal, not read), an empty line, the words; either alone will do.

    Raises QwenctlError if there is nothing, or more than 64 MiB.
    """
    prompt = read_optional_prompt(words, stdin, warn)
    if not prompt:
        raise QwenctlError(
            "no prompt: standard input is empty" if stdin is not None else "no prompt",
            'qwenctl chat -m MODEL.gguf "What is the capital of France?"',
        )
    return prompt


def read_optional_prompt(words: Sequence[str], stdin: BinaryIO | None, warn: Write) -> str:
    """The same, where nothing is no failure."""
    asked = replace_surrogates(" ".join(words)).strip()
    piped = decode(_read(stdin), warn).rstrip("\r\n") if stdin is not None else ""
    return "\n\n".join(part for part in (piped, asked) if part.strip())


def stream_answer(
    events: Iterable[PrefillProgress | TextDelta | GenerationFinished],
    status: StatusLine,
    answer: Write,
    thinking: Write,
) -> CompletedAnswer:
    """Pass on each piece of text as it comes, to `answer` or to `thinking`; return them whole, and the calls too."""
    pieces: dict[str, list[str]] = {"answer": [], "thinking": [], "call": []}
    writers = {"answer": answer, "thinking": thinking}
    try:
        for event in events:
            if isinstance(event, GenerationFinished):
                answered, thought, calls = ("".join(pieces[channel]) for channel in ("answer", "thinking", "call"))
                return CompletedAnswer(answered, thought, event, calls)
            if isinstance(event, PrefillProgress):
                status.show(reading(event))
                continue
            status.clear()
            pieces[event.channel].append(event.text)
            if event.channel in writers:
                writers[event.channel](event.text)
    finally:
        status.clear()
    raise QwenctlError("the engine stopped without finishing the answer", code=ExitCode.ENGINE_CRASHED)


def as_json(answer: CompletedAnswer, loaded: ModelInfo) -> str:
    """One JSON object, on one line."""
    fields = {
        "answer": answer.text,
        "thinking": answer.thinking,
        "tool_calls": [asdict(call) for call in answer.tool_calls],
        "finish_reason": "tool_calls" if answer.tool_calls else answer.finished.reason,
        "usage": asdict(answer.finished.usage),
        "timings": asdict(answer.finished.timings),
        "model": asdict(loaded),
    }
    return json.dumps(fields, ensure_ascii=False)


def statistics(answer: CompletedAnswer, loaded: ModelInfo) -> str:
    """The figures of an answer, on one line."""
    return ", ".join(figures(answer.finished, loaded.context_tokens))


def truncation_warning(answer: CompletedAnswer, max_tokens: int) -> str:
    """A warning where the answer is not all that the model would have said; otherwise nothing."""
    why = ending(answer.finished, max_tokens)
    if why and not answer.text.strip() and answer.thinking:
        return f"no answer, only thinking: {why}; --no-think answers at once"
    return f"the answer is incomplete: {why}" if why else ""


def _read(stdin: BinaryIO) -> bytes:
    data = stdin.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise QwenctlError(
            f"standard input is larger than {MAX_PROMPT_BYTES // 2**20} MiB, more than any context holds",
            'head -c 100000 FILE | qwenctl chat -m MODEL.gguf "Summarize this"',
            ExitCode.BAD_DATA,
        )
    return data
