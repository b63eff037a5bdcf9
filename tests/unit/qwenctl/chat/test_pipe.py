"""`qwenctl chat` in a pipe: one prompt in, one answer out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from qwenctl.chat.pipe import (
    MAX_PROMPT_BYTES,
    CompletedAnswer,
    as_json,
    read_prompt,
    stream_answer,
    truncation_warning,
)
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.messages import GenerationFinished, PrefillProgress, TextDelta, Timings, Usage
from qwenctl.terminal.sanitize import decode, replace_surrogates
from qwenctl.terminal.streams import StatusLine

LOADED = ModelInfo("toy", "qwen35moe", "qwen35moe 12M Q8_0", 12_000_000, 12_000_000, 32_768, 262_144)
DONE = GenerationFinished("stop", Usage(10, 0, 2, 3, 15), Timings(0.1, 0.2, 0.5))


def prompt_of(words: list[str], data: bytes | None) -> tuple[str, list[str]]:
    warnings: list[str] = []
    stdin = None if data is None else io.BytesIO(data)
    return read_prompt(words, stdin, warnings.append), warnings


@pytest.mark.parametrize(
    ("words", "data", "prompt"),
    [
        (["Summarize", "this"], b"notes\nmore\n", "notes\nmore\n\nSummarize this"),
        ([], b"What is 2+2?\n", "What is 2+2?"),
        (["Hello"], None, "Hello"),
        (["Hello"], b"", "Hello"),
        (["Hello"], b" \n\n", "Hello"),
        ([], b"\xef\xbb\xbfwith a mark\r\n", "with a mark"),
        ([], "Größe 日本\n".encode(), "Größe 日本"),
        ([], b"  indented\n", "  indented"),
    ],
)
def test_prompt_joins_standard_input_and_arguments(words: list[str], data: bytes | None, prompt: str) -> None:
    assert prompt_of(words, data) == (prompt, [])


@pytest.mark.parametrize(("data", "line"), [(None, "no prompt"), (b"", "no prompt: standard input is empty")])
def test_missing_prompt_is_usage_error_with_example(data: bytes | None, line: str) -> None:
    with pytest.raises(QwenctlError) as caught:
        prompt_of([], data)
    assert (caught.value.message, caught.value.code) == (line, ExitCode.USAGE)
    assert caught.value.hint == 'qwenctl chat -m MODEL.gguf "What is the capital of France?"'


def test_stdin_bytes_not_utf8_are_replaced_with_one_warning() -> None:
    warnings: list[str] = []
    data = "ok \N{REPLACEMENT CHARACTER} ".encode() + b"\xff\xfe caf\xe9"
    assert decode(data, warnings.append) == "ok \ufffd \ufffd\ufffd caf\ufffd"
    assert warnings == ["stdin byte 7 is not UTF-8; 3 characters replaced"]


def test_argument_not_utf8_gets_replacement_characters() -> None:
    assert replace_surrogates(b"caf\xe9 \xc3\xa9".decode("utf-8", "surrogateescape")) == "caf\ufffd \u00e9"


def test_endless_input_is_refused_at_size_limit() -> None:
    with Path("/dev/zero").open("rb") as zeros, pytest.raises(QwenctlError, match="larger than 64 MiB") as caught:
        read_prompt([], zeros, print)
    assert caught.value.code == ExitCode.BAD_DATA
    assert MAX_PROMPT_BYTES == 64 * 2**20


def test_answer_pieces_are_passed_on_unchanged() -> None:
    output: list[str] = []
    thought: list[str] = []
    events = [
        PrefillProgress(1, 2),
        TextDelta("hm", "thinking"),
        TextDelta("A\x1b[1m", "answer"),
        TextDelta("b\n", "answer"),
        DONE,
    ]
    answer = stream_answer(iter(events), StatusLine(None), output.append, thought.append)
    assert (output, thought) == (["A\x1b[1m", "b\n"], ["hm"])
    assert answer == CompletedAnswer("A\x1b[1mb\n", "hm", DONE)


def test_stream_without_final_event_is_reported_as_engine_crash() -> None:
    with pytest.raises(QwenctlError) as caught:
        stream_answer(iter([TextDelta("A", "answer")]), StatusLine(None), print, print)
    assert caught.value.code == ExitCode.ENGINE_CRASHED


def test_json_answer_has_every_field() -> None:
    found = json.loads(as_json(CompletedAnswer("Paris 日本\n", "hm", DONE), LOADED))
    assert found["answer"] == "Paris 日本\n"
    assert found["thinking"] == "hm"
    assert found["finish_reason"] == "stop"
    assert found["usage"] == {
        "prompt_tokens": 10, "cached_tokens": 0, "thinking_tokens": 2, "answer_tokens": 3, "context_used": 15,
        "drafted_tokens": 0, "accepted_tokens": 0,
    }  # fmt: skip
    assert found["timings"] == {"prompt_s": 0.1, "first_token_s": 0.2, "generate_s": 0.5}
    assert found["model"]["name"] == "toy"
    assert found["tool_calls"] == []
    assert len(found) == 7


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (CompletedAnswer("whole", "", DONE), ""),
        (CompletedAnswer("ha", "", GenerationFinished("length")), "the answer is incomplete: cut at 5 tokens (-n)"),
        (
            CompletedAnswer("", "hm", GenerationFinished("length")),
            "no answer, only thinking: cut at 5 tokens (-n); --no-think answers at once",
        ),
    ],
)
def test_truncated_answer_has_warning(answer: CompletedAnswer, line: str) -> None:
    assert truncation_warning(answer, 5) == line
