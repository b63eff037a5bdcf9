"""One prompt in, one answer out: chat in a pipe or a script.

Standard input (bytes) and the arguments of the command line come in. Only the answer goes to standard output, streamed
or as one JSON object at the end; everything else goes to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.text_check import check_standard_input
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.messages import GenerationFinished, PrefillProgress, TextDelta, ToolCall
from qwenctl.terminal.sanitize import decode, replace_surrogates
from qwenctl.terminal.streams import StatusLine, warn_if_silent
from qwenctl.views.answer import format_finish_reason, format_prefill, format_statistics

MAX_PROMPT_BYTES = 64 * 2**20  # far above any context; `qwenctl chat < /dev/zero` must not fill the memory
Write = Callable[[str], None]


@dataclass(frozen=True)
class CompletedAnswer:
    """A whole answer. `text`, `thinking` and `calls` are as the model wrote them; `tool_calls` are the parsed calls."""

    text: str
    thinking: str
    finished: GenerationFinished
    calls: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def read_prompt(words: Sequence[str], stdin: BinaryIO | None, warn: Write) -> str:
    """Return the prompt: standard input (None: a terminal, not read), an empty line, and `words`. Either may be empty.

    `warn` gets a line if bytes are not UTF-8. Raises QwenctlError if the prompt is empty, or standard input is
    no text or has more than `MAX_PROMPT_BYTES`.
    """
    prompt = read_optional_prompt(words, stdin, warn)
    if not prompt:
        raise QwenctlError(
            "no prompt: standard input is empty" if stdin is not None else "no prompt",
            'qwenctl chat -m MODEL.gguf "What is the capital of France?"',
        )
    return prompt


def read_optional_prompt(words: Sequence[str], stdin: BinaryIO | None, warn: Write) -> str:
    """Like `read_prompt`, but an empty prompt is no error."""
    asked = replace_surrogates(" ".join(words)).strip()
    piped = decode(_read(stdin, warn), warn).rstrip("\r\n") if stdin is not None else ""
    return "\n\n".join(part for part in (piped, asked) if part.strip())


def stream_answer(
    events: Iterable[PrefillProgress | TextDelta | GenerationFinished],
    status: StatusLine,
    answer: Write,
    thinking: Write,
) -> CompletedAnswer:
    """Write each piece of text as it arrives, to `answer` or `thinking`; return the whole answer, calls included.

    Raises QwenctlError (ENGINE_CRASHED) if the events end before the answer is finished.
    """
    pieces: dict[str, list[str]] = {"answer": [], "thinking": [], "call": []}
    writers = {"answer": answer, "thinking": thinking}
    try:
        for event in events:
            if isinstance(event, GenerationFinished):
                answered, thought, calls = ("".join(pieces[channel]) for channel in ("answer", "thinking", "call"))
                return CompletedAnswer(answered, thought, event, calls)
            if isinstance(event, PrefillProgress):
                status.show(format_prefill(event))
                continue
            status.clear()
            pieces[event.channel].append(event.text)
            if event.channel in writers:
                writers[event.channel](event.text)
    finally:
        status.clear()
    raise QwenctlError("the engine stopped without finishing the answer", code=ExitCode.ENGINE_CRASHED)


def as_json(answer: CompletedAnswer, loaded: ModelInfo) -> str:
    """Return the answer as a JSON object on one line."""
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


def statistics_line(answer: CompletedAnswer, loaded: ModelInfo) -> str:
    """Return the speed, waiting time and context use of an answer, on one line."""
    return ", ".join(format_statistics(answer.finished, loaded.context_tokens))


def truncation_warning(answer: CompletedAnswer, max_tokens: int) -> str:
    """Return a warning if the answer was cut short; otherwise an empty text."""
    why = format_finish_reason(answer.finished, max_tokens)
    if why and not answer.text.strip() and answer.thinking:
        return f"no answer, only thinking: {why}; --no-think answers at once"
    return f"the answer is incomplete: {why}" if why else ""


def _read(stdin: BinaryIO, warn: Write) -> bytes:
    warn_if_silent(stdin, "the prompt on standard input", "without one: < /dev/null", warn)
    data = stdin.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise QwenctlError(
            f"standard input is larger than {MAX_PROMPT_BYTES // 2**20} MiB, more than any context holds",
            'head -c 100000 FILE | qwenctl chat -m MODEL.gguf "Summarize this"',
            ExitCode.BAD_DATA,
        )
    check_standard_input(data, "qwenctl chat")
    return data
