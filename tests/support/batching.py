"""Helpers for tests of batches: records that the toy model can answer, the command, an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qwenctl.engine.client import Engine
from qwenctl.protocol.batch import BatchProgress, BatchStarted, RecordDone, RecordFailed, StartBatch, SubmitRequest
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Message, Sampling
from tests.support.paths import DATA

QUESTIONS = [
    question
    for line in (DATA / "questions.jsonl").read_text().splitlines()
    if "question" in (question := json.loads(line)) and "picture" not in question
]
GREEDY = Sampling(temperature=0, presence_penalty=0)
OPTIONS = ("--temp", "0", "--presence-penalty", "0", "-t", "1", "-c", "512")


def short_records(count: int) -> list[dict[str, Any]]:
    """Records in the short format; every second one thinks."""
    asked = (QUESTIONS[number % len(QUESTIONS)]["question"] for number in range(count))
    return [{"id": f"r{number}", "prompt": text, "think": bool(number % 2)} for number, text in enumerate(asked)]


def write_lines(path: Path, values: Iterable[object]) -> Path:
    """Write `values` as JSON lines; returns the path."""
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


def read_lines(path: Path) -> list[Any]:
    """The values of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "qwenctl", "batch", *map(str, arguments)]


def batch(
    *arguments: object, stdin: bytes | None = None, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the batch command to its end; without `stdin`, standard input is empty."""
    return subprocess.run(
        command(*arguments),
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def add(number: int, text: str, **changes: Any) -> SubmitRequest:
    """A greedy record with one question."""
    return SubmitRequest(number, (Message("user", text),), **{"enable_thinking": False, "sampling": GREEDY, **changes})


def loaded_engine(model: Path, logs: Path) -> Engine:
    """An engine that has loaded the model; it is closed with the context."""
    engine = Engine.start(logs)
    list(engine.load(model, LoadParams(context_tokens=256, threads=1)))
    return engine


def answers(
    engine: Engine,
    records: Sequence[SubmitRequest],
    parallel: int,
    *,
    shares: bool = True,
    room: int = 512,
    patience_s: float = 60,
) -> tuple[dict[int, RecordDone | RecordFailed], BatchProgress]:
    """The outcomes of records answered together, by number, and the last progress event."""
    engine.send(StartBatch(LoadParams(context_tokens=room, threads=1), parallel, share_prefixes=shares))
    assert isinstance(engine.receive(patience_s), BatchStarted)
    for record in records:
        engine.send(record)
    found: dict[int, RecordDone | RecordFailed] = {}
    progress: BatchProgress | None = None
    while len(found) < len(records) or progress is None or progress.active or progress.waiting:
        event = engine.receive(patience_s)
        assert event is not None
        if isinstance(event, RecordDone | RecordFailed):
            found[event.request_id] = event
        elif isinstance(event, BatchProgress):
            progress = event
    return found, progress
