"""The engine as a child process: it answers and can be cancelled, and the program survives and explains its death."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from qwenctl.backend_check.results import EXTRA, PLAIN, BackendCheck, CaseResult, SubjectResult
from qwenctl.engine.client import Engine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.llama_build import build_command
from qwenctl.protocol.load import LoadParams, LoadProgress, ModelInfo
from qwenctl.protocol.messages import (
    Generate,
    GenerationFinished,
    Message,
    PrefillProgress,
    RequestFailed,
    Sampling,
    TextDelta,
)
from tests.support.engines import LONG, SETTINGS
from tests.support.waiting import until

GREEDY = Sampling(temperature=0, presence_penalty=0)
FRANCE = Generate((Message("user", "What is the capital of France?"),), False, GREEDY)
WILD = Sampling(temperature=2, top_k=0, top_p=1, seed=1)
ENDLESS = Generate((Message("user", "Go on."),), False, WILD, grammar="root ::= [a-z]+ [A-Z]{9}")
PASSED = SubjectResult(PLAIN, (CaseResult("one token at a time"),))
FAILED = SubjectResult(EXTRA, (CaseResult("2 sequences at once", 0.5),), ("AMX",))


@pytest.fixture
def unloaded(tmp_path: Path) -> Iterator[Engine]:
    with Engine.start(tmp_path) as engine:
        yield engine


@pytest.fixture
def engine(toy_gguf: Path, unloaded: Engine) -> Engine:
    assert isinstance(list(unloaded.load(toy_gguf, SETTINGS))[-1], ModelInfo)
    return unloaded


def output(engine: Engine, request: Generate = FRANCE) -> str:
    return "".join(event.text for event in engine.generate(request) if isinstance(event, TextDelta))


def test_load_reports_progress_and_model_info(toy_gguf: Path, unloaded: Engine) -> None:
    *progress, loaded = unloaded.load(toy_gguf, SETTINGS)
    fractions = [event.fraction for event in progress if isinstance(event, LoadProgress)]
    assert len(fractions) == len(progress) > 1
    assert fractions == sorted(fractions)
    assert isinstance(loaded, ModelInfo)
    assert (loaded.name, loaded.architecture, loaded.context_tokens) == ("toy", "qwen35moe", 65_536)
    assert loaded.generation_config == {"temperature": pytest.approx(0.6), "top_k": 20, "top_p": pytest.approx(0.95)}


def test_answer_reports_its_usage_and_timings(engine: Engine) -> None:
    *pieces, finished = engine.generate(FRANCE)
    tokens = [event for event in pieces if isinstance(event, TextDelta)]
    assert isinstance(finished, GenerationFinished)
    assert "".join(token.text for token in tokens) == "The capital of France is Paris."
    usage = finished.usage
    assert (finished.reason, usage.thinking_tokens, usage.cached_tokens) == ("stop", 0, 0)
    assert usage.context_used == usage.prompt_tokens + usage.answer_tokens == engine.stats().context_used
    assert 0 < finished.timings.prompt_s < finished.timings.first_token_s


def test_thinking_has_its_own_channel_and_count(engine: Engine) -> None:
    *events, finished = engine.generate(Generate(FRANCE.messages, True, GREEDY))
    channels = [event.channel for event in events if isinstance(event, TextDelta)]
    assert channels == sorted(channels, reverse=True)  # all of the thinking, then all of the answer
    assert isinstance(finished, GenerationFinished)
    assert finished.usage.thinking_tokens > 0


@pytest.mark.parametrize("most", [1, 3])
def test_answer_stops_at_max_tokens(engine: Engine, most: int) -> None:
    *_, finished = engine.generate(Generate(FRANCE.messages, False, GREEDY, most))
    assert isinstance(finished, GenerationFinished)
    assert (finished.reason, finished.usage.answer_tokens) == ("length", most)


def test_answer_stops_when_the_context_is_full(toy_gguf: Path, unloaded: Engine) -> None:
    list(unloaded.load(toy_gguf, LoadParams(context_tokens=32, threads=1)))
    *_, finished = unloaded.generate(Generate(FRANCE.messages, True, GREEDY))
    assert isinstance(finished, GenerationFinished)
    assert (finished.reason, finished.usage.context_used) == ("context", 32)


# ------------------------------------------------------------------ cancelling


def test_prefill_can_be_cancelled(engine: Engine) -> None:
    events = engine.generate(LONG)
    seen = [next(events)]
    engine.cancel()
    seen += events
    read = [event for event in seen if isinstance(event, PrefillProgress)]
    assert isinstance(seen[-1], GenerationFinished)
    assert seen[-1].reason == "cancelled"
    assert read[-1].done < read[-1].total / 2
    assert output(engine) == "The capital of France is Paris."


def test_generation_can_be_cancelled(engine: Engine) -> None:
    endless = Generate(FRANCE.messages, False, Sampling(temperature=50, top_k=0, top_p=1, seed=9))
    events = engine.generate(endless)
    first = next(event for event in events if isinstance(event, TextDelta))
    engine.cancel()
    rest = list(events)
    assert first.text
    assert isinstance(rest[-1], GenerationFinished)
    assert rest[-1].reason == "cancelled"


def test_cancel_after_the_end_does_not_affect_later_requests(engine: Engine) -> None:
    for _ in range(3):
        assert output(engine) == "The capital of France is Paris."
        engine.cancel()
        engine._write(b'["Cancel", {}]\n')  # as if it had been sent at the same time as the last event


def test_cancel_while_a_request_is_being_sent_takes_effect(engine: Engine) -> None:
    """A signal handler can run between any two writes."""
    huge = Generate((Message("user", "word " * 30_000),), False, GREEDY)
    previous = signal.signal(signal.SIGALRM, lambda *_: engine.cancel())
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        *_, finished = engine.generate(huge)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert isinstance(finished, GenerationFinished)
    assert finished.reason == "cancelled"
    assert output(engine) == "The capital of France is Paris."


def test_abandoned_answer_does_not_disturb_the_next_request(engine: Engine) -> None:
    next(engine.generate(LONG))
    assert engine.stats().context_tokens == 65_536
    assert output(engine) == "The capital of France is Paris."


def test_sigint_does_not_end_the_engine(engine: Engine) -> None:
    os.kill(engine.pid, signal.SIGINT)
    assert output(engine) == "The capital of France is Paris."


# ------------------------------------------------------------------ crashes


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL])
def test_killed_engine_is_an_error_that_names_the_signal(engine: Engine, number: signal.Signals) -> None:
    events = engine.generate(LONG)
    next(events)
    os.kill(engine.pid, number)
    expected_error = rf"the model engine stopped while it read the prompt \({number.name}"
    with pytest.raises(QwenctlError, match=expected_error) as caught:
        list(events)
    assert caught.value.code == ExitCode.ENGINE_CRASHED
    with pytest.raises(QwenctlError):
        engine.stats()
    engine.close()
    engine.close()
    assert not psutil.pid_exists(engine.pid)


def with_number(gguf: Path, folder: Path, key: str, number: int) -> Path:
    """A copy of a GGUF file with another value for a 32-bit number of its metadata."""
    data, name = bytearray(gguf.read_bytes()), f"qwen35moe.{key}".encode()
    assert data.count(name) == 1
    at = data.index(name) + len(name)
    assert data[at : at + 4] == struct.pack("<I", 4)
    data[at + 4 : at + 8] = struct.pack("<I", number)
    (folder / "changed.gguf").write_bytes(data)
    return folder / "changed.gguf"


def test_engine_abort_is_reported_with_its_reason(toy_gguf: Path, tmp_path: Path, unloaded: Engine) -> None:
    """More experts than LLAMA_MAX_EXPERTS make libllama abort. (The program itself would refuse the file earlier.)"""
    bad = with_number(toy_gguf, tmp_path, "expert_count", 5000)
    reason = r"while it loaded the model \(SIGABRT: [\w-]+\.cpp:\d+: GGML_ASSERT\(.*LLAMA_MAX_EXPERTS"
    with pytest.raises(QwenctlError, match=reason) as caught:
        list(unloaded.load(bad, SETTINGS))
    assert "its log: " in caught.value.hint


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (None, "`qwenctl doctor` checks llama.cpp"),
        (BackendCheck(PASSED), "llama.cpp's check had passed; `qwenctl doctor --measure` checks again"),
        (BackendCheck(PASSED, FAILED), "llama.cpp's check had failed with extra buffer types (AMX); `qwenctl doctor"),
    ],
    ids=["no check", "passed check", "failed check"],
)
def test_engine_crash_hint_quotes_the_backend_check(
    toy_gguf: Path, tmp_path: Path, check: BackendCheck | None, words: str
) -> None:
    with Engine.start(tmp_path, check) as engine:
        list(engine.load(toy_gguf, SETTINGS))
        events = engine.generate(ENDLESS)
        while not isinstance(next(events), TextDelta):
            pass
        os.kill(engine.pid, signal.SIGSEGV)
        with pytest.raises(QwenctlError, match=r"stopped while it answered \(SIGSEGV\)") as caught:
            list(events)
    assert caught.value.hint.startswith(words)
    assert "; its log: " in caught.value.hint


def test_illegal_instruction_hint_shows_the_build_command(engine: Engine) -> None:
    os.kill(engine.pid, signal.SIGILL)
    with pytest.raises(QwenctlError, match=r"\(SIGILL\)") as caught:
        engine.stats()
    assert build_command("CPU") in caught.value.hint


def test_python_exception_in_the_engine_is_reported_with_its_text(toy_gguf: Path, unloaded: Engine) -> None:
    with pytest.raises(QwenctlError) as caught:
        list(unloaded.load(toy_gguf, replace(SETTINGS, cache_type_k="none")))
    expected = r"the model engine failed while it loaded the model \(KeyError: 'NONE'\)"
    assert re.fullmatch(expected, caught.value.message)
    assert caught.value.code == ExitCode.ENGINE_CRASHED


def test_request_with_a_wrong_field_type_is_refused_and_the_engine_survives(engine: Engine) -> None:
    with pytest.raises(QwenctlError, match=r"Expected `int`, got `str` - at `\$.max_tokens`") as caught:
        list(engine.generate(replace(FRANCE, max_tokens="many")))  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.BUG
    assert output(engine) == "The capital of France is Paris."


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b'["Ask", {}]\n', b'["Count", {}]\n', b'["TokenCount", {"tokens": 1}]\n']
)
def test_invalid_line_is_refused_and_the_engine_survives(engine: Engine, line: bytes) -> None:
    engine._pending_reply = True
    engine._write(line)
    answer = engine._receive()
    assert isinstance(answer, RequestFailed)
    assert answer.kind == "request"
    assert answer.message.startswith("not a message of the engine's protocol: ")
    assert output(engine) == "The capital of France is Paris."


def test_invalid_line_during_an_answer_is_refused_after_the_answer(engine: Engine) -> None:
    events = engine.generate(FRANCE)
    next(events)
    engine._write(b"nonsense\n")
    assert isinstance(list(events)[-1], GenerationFinished)
    with pytest.raises(QwenctlError, match="not a message of the engine's protocol"):
        engine.stats()


@pytest.mark.parametrize("line", ["nonsense", '["Tell", {}]', '["TokenCount", {}]', '["Stats", {}]', '["Flushed", {}]'])
def test_unexpected_engine_output_is_an_error_and_ends_the_engine(tmp_path: Path, line: str) -> None:
    """The output is not an event, or it answers another request."""
    program = f"import sys; sys.stdin.readline(); print({line!r}, flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with Engine(process, process.stdin, process.stdout, tmp_path / "log") as engine:
        with pytest.raises(QwenctlError, match=r"^the model engine is out of step: ") as caught:
            engine.count("word")
        assert caught.value.code == ExitCode.ENGINE_CRASHED
        assert process.poll() is not None


def test_model_refused_by_libllama_is_reported_with_its_reason(
    toy_gguf: Path, tmp_path: Path, unloaded: Engine
) -> None:
    data = toy_gguf.read_bytes().replace(b"blk.1.attn_norm.weight", b"blk.1.attn_nurm.weight")
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(
        QwenctlError, match=r"^cannot load bad.gguf: tensor 'blk.1.attn_norm.weight' not found$"
    ) as caught:
        list(unloaded.load(tmp_path / "bad.gguf", SETTINGS))
    assert caught.value.code == ExitCode.BAD_DATA


def test_context_too_large_for_memory_is_reported(toy_gguf: Path, tmp_path: Path, unloaded: Engine) -> None:
    import resource

    wide = with_number(toy_gguf, tmp_path, "context_length", 20_000_000)
    resource.prlimit(unloaded.pid, resource.RLIMIT_AS, (6 << 30, 6 << 30))
    with pytest.raises(QwenctlError, match=r"^cannot make a context of 20,000,000 tokens: ") as caught:
        list(unloaded.load(wide, LoadParams(context_tokens=20_000_000)))
    assert caught.value.code == ExitCode.NO_MEMORY


def test_context_above_the_model_maximum_is_refused(toy_gguf: Path, unloaded: Engine) -> None:
    with pytest.raises(QwenctlError, match="-c 1010001: the model supports 1,010,000 tokens") as caught:
        list(unloaded.load(toy_gguf, LoadParams(context_tokens=1_010_001)))
    assert (caught.value.hint, caught.value.code) == ("-c 1010000", ExitCode.USAGE)


def test_engine_ends_when_its_parent_dies(toy_gguf: Path, tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from qwenctl.engine.client import Engine
from tests.support.engines import LONG, SETTINGS
engine = Engine.start(Path({str(tmp_path)!r}))
list(engine.load(Path({str(toy_gguf)!r}), SETTINGS))
next(engine.generate(LONG))
print(engine.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
        until(lambda: not psutil.pid_exists(child))


def test_only_the_newest_logs_remain(toy_gguf: Path, tmp_path: Path) -> None:
    for _ in range(12):
        Engine.start(tmp_path).close()
    assert len(list(tmp_path.glob("engine-*.log"))) == 8
