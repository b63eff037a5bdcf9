"""A batch or engine killed at any moment: the same command resumes the batch, and the output bytes are the same.

`BATCH_KILLS=200 BATCH_RECORDS=500` makes the first test longer.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qwenctl.batch.backends.engine_backend import EngineBackend, EngineBackendConfig
from qwenctl.batch.records import Answer, GenerationParams, Record, RecordError
from qwenctl.engine.client import Engine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.batch import (
    BatchEvent,
    BatchRequest,
    RecordStarted,
    StartBatch,
    SubmitRequest,
)
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.protocol.messages import Message
from tests.support.batching import OPTIONS, QUESTIONS, batch, command, read_lines, short_records, write_lines
from tests.support.waiting import until

KILLS = int(os.environ.get("BATCH_KILLS", "6"))
RECORDS = int(os.environ.get("BATCH_RECORDS", "80"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("in") / "in.jsonl", short_records(RECORDS))


@pytest.fixture(scope="module")
def clean(source: Path, toy_gguf: Path) -> tuple[bytes, float]:
    """The output of an undisturbed run, and its duration in seconds."""
    path, begin = source.with_name("clean.jsonl"), time.monotonic()
    done = batch(source, "-o", path, "-m", toy_gguf, *OPTIONS, "-np", 6)
    assert done.returncode == 0, done.stderr.decode()
    return path.read_bytes(), time.monotonic() - begin


def start(source: Path, output: Path, model: Path, *options: object) -> subprocess.Popen[bytes]:
    arguments = command(source, "-o", output, "-m", model, *OPTIONS, "-np", 6, *options)
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600 if KILLS > 20 else 600)
def test_batch_killed_at_random_moments_loses_or_repeats_no_record(
    source: Path, clean: tuple[bytes, float], toy_gguf: Path, tmp_path: Path
) -> None:
    draw, kills, rounds = random.Random(6), 0, 0
    whole, seconds = clean
    while kills < KILLS:
        output = tmp_path / f"out{rounds}.jsonl"
        while True:
            process = start(source, output, toy_gguf)
            try:
                process.wait(timeout=draw.uniform(0, seconds) if kills < KILLS else 120)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                assert whole.startswith(output.read_bytes() if output.exists() else b"")
        assert process.communicate() is not None
        assert process.returncode == 0
        assert output.read_bytes() == whole
        rounds += 1


def test_killed_batch_resumes_without_the_finished_records(
    source: Path, clean: tuple[bytes, float], toy_gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    process = start(source, output, toy_gguf)
    until(lambda: count_lines(output) >= 10)
    process.kill()
    process.communicate()
    saved = count_lines(output)
    with output.open("ab") as file:
        file.write(b'{"id": "torn')
    done = batch(source, "-o", output, "-m", toy_gguf, *OPTIONS, "-np", 3, "--json")
    assert done.returncode == 0
    assert output.read_bytes() == clean[0]
    figures = json.loads(done.stdout)
    assert figures["known_before"] >= saved
    assert figures["answered"] + figures["known_before"] == RECORDS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_stops_a_batch_with_a_resume_hint(
    source: Path, toy_gguf: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "out.jsonl"
    process = start(source, output, toy_gguf, "-q")
    until(lambda: count_lines(output) >= 3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    first, hint = stderr.decode().splitlines()
    assert first.startswith("qwenctl: error: stopped; ")
    assert first.endswith(f" of {RECORDS} records are done")
    assert hint == "  hint: the same command resumes"
    assert count_lines(output) >= 3


def test_second_batch_on_the_same_output_is_refused(source: Path, toy_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first = start(source, output, toy_gguf)
    try:
        until(lambda: count_lines(output) >= 1)
        first.send_signal(signal.SIGSTOP)  # keep it from ending before the second has started
        second = batch(source, "-o", output, "-m", toy_gguf, *OPTIONS)
        assert second.returncode == ExitCode.TRY_AGAIN
        assert f"another qwenctl (pid {first.pid}, " in second.stderr.decode()
        assert "is writing this output" in second.stderr.decode()
    finally:
        first.kill()
        first.communicate()


def test_killed_engine_is_restarted(source: Path, clean: tuple[bytes, float], toy_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    process = start(source, output, toy_gguf)
    until(lambda: count_lines(output) >= 5)
    [engine] = psutil.Process(process.pid).children()
    engine.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr.decode()
    assert "the model engine stopped while it answered a batch (SIGKILL)" in stderr.decode()
    assert output.read_bytes() == clean[0]


class Poisoned:
    """A real engine that receives a signal whenever it starts a record with "poison" in its question."""

    def __init__(self, engine: Engine, number: signal.Signals) -> None:
        self._engine, self._signal = engine, number
        self._poison: set[int] = set()

    def send(self, request: BatchRequest) -> None:
        if isinstance(request, SubmitRequest) and "poison" in request.messages[0].content:
            self._poison.add(request.request_id)
        self._engine.send(request)

    def receive(self, timeout_s: float | None) -> BatchEvent | None:
        event = self._engine.receive(timeout_s)
        if isinstance(event, RecordStarted) and event.request_id in self._poison:
            if self._signal == signal.SIGSTOP:
                os.kill(self._engine.pid, signal.SIGSTOP)
            else:
                self._engine.kill(self._signal)  # no effect if another record has already killed it
        return event

    def cpu_seconds(self) -> float:
        return self._engine.cpu_seconds()

    def close(self) -> None:
        self._engine.close()


@pytest.fixture
def started() -> list[Engine]:
    """The engines that `make_backend` has started so far."""
    return []


@pytest.fixture
def make_backend(
    toy_gguf: Path, tmp_path: Path, started: list[Engine]
) -> Iterator[Callable[[signal.Signals], EngineBackend]]:
    made: list[EngineBackend] = []
    settings = LoadParams(context_tokens=256, threads=1)

    def make(number: signal.Signals) -> EngineBackend:
        def start() -> tuple[Poisoned, ModelInfo]:
            engine = Engine.start(tmp_path)
            started.append(engine)
            *_, loaded = engine.load(toy_gguf, settings)
            assert isinstance(loaded, ModelInfo)
            return Poisoned(engine, number), loaded

        made.append(
            EngineBackend(EngineBackendConfig(start, StartBatch(settings, 3), 0, lambda _: None, max_silence_s=5))
        )
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def outcomes(backend: EngineBackend, texts: list[str]) -> dict[int, Answer | RecordError]:
    wanted = GenerationParams(think=False, sampling={"temperature": 0, "presence_penalty": 0})
    for number, text in enumerate(texts):
        backend.submit(number, Record(str(number), number, (Message("user", text),), wanted))
    found: dict[int, Answer | RecordError] = {}
    end = time.monotonic() + 100
    while len(found) < len(texts):
        found.update(backend.collect(1))
        assert time.monotonic() < end
    return found


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGSTOP])
def test_record_that_crashes_the_engine_twice_fails_alone(
    make_backend: Callable[[signal.Signals], EngineBackend], number: signal.Signals
) -> None:
    texts = [question["question"] for question in QUESTIONS[:10]]
    texts[4] = "poison"
    found = outcomes(make_backend(number), texts)
    failed = {at: one for at, one in found.items() if isinstance(one, RecordError)}
    assert failed.keys() == {4}
    assert failed[4].kind == "crash"
    assert ("hangs" if number == signal.SIGSTOP else number.name) in failed[4].message
    for at, one in found.items():
        assert at == 4 or (isinstance(one, Answer) and one.text == QUESTIONS[at]["answer"])


def test_engine_that_crashes_on_every_record_ends_the_batch(
    make_backend: Callable[[signal.Signals], EngineBackend],
) -> None:
    with pytest.raises(QwenctlError, match="SIGSEGV") as caught:
        outcomes(make_backend(signal.SIGSEGV), ["poison"] * 12)
    assert caught.value.code == ExitCode.ENGINE_CRASHED


def test_failed_records_are_listed_and_retried_on_request(source: Path, toy_gguf: Path, tmp_path: Path) -> None:
    records = short_records(6)
    records[1]["prompt"] = "word " * 1000
    bad = write_lines(tmp_path / "in.jsonl", records)
    bad.write_text(bad.read_text().replace('"r4"', "r4"))
    output = tmp_path / "out.jsonl"
    for _ in range(2):
        done = batch(bad, "-o", output, "-m", toy_gguf, *OPTIONS, "-q")
        assert done.returncode == ExitCode.SOME_FAILED, done.stderr.decode()
        assert [line["id"] for line in read_lines(output)] == ["r0", "r2", "r3", "r5"]
        errors = {line["line"]: line for line in read_lines(tmp_path / "out.errors.jsonl")}
        assert {number: line["id"] for number, line in errors.items()} == {2: "r1", 5: None}
        assert errors[2]["error"]["hint"].startswith("-c ")
        assert errors[5]["where"] == f"{bad}:5:8"
    write_lines(bad, short_records(6))
    done = batch(bad, "-o", output, "-m", toy_gguf, *OPTIONS, "-q", "--retry-errors", "--resume", "force")
    assert done.returncode == 0, done.stderr.decode()
    assert [line["id"] for line in read_lines(output)] == [f"r{number}" for number in range(6)]
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_engine_killed_between_records_is_restarted(
    make_backend: Callable[[signal.Signals], EngineBackend], started: list[Engine]
) -> None:
    backend = make_backend(signal.SIGKILL)
    first = outcomes(backend, [QUESTIONS[0]["question"]])
    [engine] = started
    engine.kill()
    again = outcomes(backend, [QUESTIONS[1]["question"]])
    assert [one.text for found in (first, again) for one in found.values() if isinstance(one, Answer)] == [
        QUESTIONS[0]["answer"],
        QUESTIONS[1]["answer"],
    ]
