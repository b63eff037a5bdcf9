"""Whatever ends a batch, or its engine, at whatever moment: the same command resumes, and the bytes are the same.

`BATCH_KILLS=200 BATCH_RECORDS=500` makes the first test a long one.
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
    """The output of a run that nothing happens to, and how long it takes."""
    path, begin = source.with_name("clean.jsonl"), time.monotonic()
    done = batch(source, "-o", path, "-m", toy_gguf, *OPTIONS, "-np", 6)
    assert done.returncode == 0, done.stderr.decode()
    return path.read_bytes(), time.monotonic() - begin


def start(source: Path, output: Path, model: Path, *options: object) -> subprocess.Popen[bytes]:
    arguments = command(source, "-o", output, "-m", model, *OPTIONS, "-np", 6, *options)
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600 if KILLS > 20 else 600)
def test_killed_at_random_moments_no_record_is_lost_or_twice(
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


def test_killed_when_some_are_done_it_skips_those(
    source: Path, clean: tuple[bytes, float], toy_gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    process = start(source, output, toy_gguf)
    until(lambda: lines(output) >= 10)
    process.kill()
    process.communicate()
    saved = lines(output)
    with output.open("ab") as file:
        file.write(b'{"id": "torn')
    done = batch(source, "-o", output, "-m", toy_gguf, *OPTIONS, "-np", 3, "--json")
    assert done.returncode == 0
    assert output.read_bytes() == clean[0]
    figures = json.loads(done.stdout)
    assert figures["known_before"] >= saved
    assert figures["answered"] + figures["known_before"] == RECORDS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_it_says_how_to_go_on(
    source: Path, toy_gguf: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output = tmp_path / "out.jsonl"
    process = start(source, output, toy_gguf, "-q")
    until(lambda: lines(output) >= 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    first, hint = said.decode().splitlines()
    assert first.startswith("qwenctl: error: stopped; ")
    assert first.endswith(f" of {RECORDS} records are done")
    assert hint == "  hint: the same command resumes"
    assert lines(output) >= 3


def test_two_batches_do_not_write_one_output(source: Path, toy_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first = start(source, output, toy_gguf)
    try:
        until(lambda: lines(output) >= 1)
        first.send_signal(signal.SIGSTOP)  # it is not to end before the other has begun
        second = batch(source, "-o", output, "-m", toy_gguf, *OPTIONS)
        assert second.returncode == ExitCode.TRY_AGAIN
        assert f"another qwenctl (pid {first.pid}, " in second.stderr.decode()
        assert "is writing this output" in second.stderr.decode()
    finally:
        first.kill()
        first.communicate()


def test_an_engine_that_is_killed_is_started_again(
    source: Path, clean: tuple[bytes, float], toy_gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    process = start(source, output, toy_gguf)
    until(lambda: lines(output) >= 5)
    [engine] = psutil.Process(process.pid).children()
    engine.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert "the model engine stopped while it answered a batch (SIGKILL)" in said.decode()
    assert output.read_bytes() == clean[0]


class Poisoned:
    """A real engine that dies, or stops, by a signal, whenever it begins a record that says so."""

    def __init__(self, engine: Engine, number: signal.Signals) -> None:
        self._engine, self._signal = engine, number
        self._poison: set[int] = set()

    def send(self, request: BatchRequest) -> None:
        if isinstance(request, SubmitRequest) and "poison" in request.messages[0].content:
            self._poison.add(request.number)
        self._engine.send(request)

    def receive(self, timeout_s: float | None) -> BatchEvent | None:
        event = self._engine.receive(timeout_s)
        if isinstance(event, RecordStarted) and event.number in self._poison:
            if self._signal == signal.SIGSTOP:
                os.kill(self._engine.pid, signal.SIGSTOP)
            else:
                self._engine.kill(self._signal)  # nothing, if it has died of another record
        return event

    def cpu_seconds(self) -> float:
        return self._engine.cpu_seconds()

    def close(self) -> None:
        self._engine.close()


@pytest.fixture
def started() -> list[Engine]:
    """The engines that `make_answerer` has started."""
    return []


@pytest.fixture
def make_answerer(
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
            EngineBackend(EngineBackendConfig(start, StartBatch(settings, 3), 0, lambda _: None, longest_silence_s=5))
        )
        return made[-1]

    yield make
    for answerer in made:
        answerer.close()


def outcomes(answerer: EngineBackend, texts: list[str]) -> dict[int, Answer | RecordError]:
    wanted = GenerationParams(think=False, sampling={"temperature": 0, "presence_penalty": 0})
    for number, text in enumerate(texts):
        answerer.submit(number, Record(str(number), number, (Message("user", text),), wanted))
    found: dict[int, Answer | RecordError] = {}
    end = time.monotonic() + 100
    while len(found) < len(texts):
        found.update(answerer.collect(1))
        assert time.monotonic() < end
    return found


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGSTOP])
def test_a_record_on_which_the_engine_crashes_twice_fails_alone(
    make_answerer: Callable[[signal.Signals], EngineBackend], number: signal.Signals
) -> None:
    texts = [question["question"] for question in QUESTIONS[:10]]
    texts[4] = "poison"
    found = outcomes(make_answerer(number), texts)
    failed = {at: one for at, one in found.items() if isinstance(one, RecordError)}
    assert failed.keys() == {4}
    assert failed[4].kind == "crash"
    assert ("hangs" if number == signal.SIGSTOP else number.name) in failed[4].message
    for at, one in found.items():
        assert at == 4 or (isinstance(one, Answer) and one.text == QUESTIONS[at]["answer"])


def test_an_engine_that_crashes_on_everything_ends_the_batch(
    make_answerer: Callable[[signal.Signals], EngineBackend],
) -> None:
    with pytest.raises(QwenctlError, match="SIGSEGV") as caught:
        outcomes(make_answerer(signal.SIGSEGV), ["poison"] * 12)
    assert caught.value.code == ExitCode.ENGINE_CRASHED


def test_what_failed_is_listed_and_tried_again_when_asked(source: Path, toy_gguf: Path, tmp_path: Path) -> None:
    records = short_records(6)
    records[1]["prompt"] = "word " * 1000
    bad = write_lines(tmp_path / "in.jsonl", records)
    bad.write_text(bad.read_text().replace('"r4"', "r4"))
    output = tmp_path / "out.jsonl"
    for _ in range(2):
        done = batch(bad, "-o", output, "-m", toy_gguf, *OPTIONS, "-q")
        assert done.returncode == ExitCode.SOME_FAILED, done.stderr.decode()
        assert [line["id"] for line in read_lines(output)] == ["r0", "r2", "r3", "r5"]
        errors = {line["id"]: line for line in read_lines(tmp_path / "out.errors.jsonl")}
        assert errors.keys() == {"r1", "line 5"}
        assert errors["r1"]["error"]["hint"].startswith("-c ")
        assert errors["line 5"]["where"] == f"{bad}:5:8"
    write_lines(bad, short_records(6))
    done = batch(bad, "-o", output, "-m", toy_gguf, *OPTIONS, "-q", "--retry-errors", "--resume", "force")
    assert done.returncode == 0, done.stderr.decode()
    assert [line["id"] for line in read_lines(output)] == [f"r{number}" for number in range(6)]
    assert not (tmp_path / "out.errors.jsonl").exists()


def test_an_engine_that_dies_between_records_is_started_again(
    make_answerer: Callable[[signal.Signals], EngineBackend], started: list[Engine]
) -> None:
    answerer = make_answerer(signal.SIGKILL)
    first = outcomes(answerer, [QUESTIONS[0]["question"]])
    [engine] = started
    engine.kill()
    again = outcomes(answerer, [QUESTIONS[1]["question"]])
    assert [one.text for found in (first, again) for one in found.values() if isinstance(one, Answer)] == [
        QUESTIONS[0]["answer"],
        QUESTIONS[1]["answer"],
    ]
