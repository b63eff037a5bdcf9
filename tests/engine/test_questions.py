"""The quantized toy model answers all questions of its training set, in an engine and through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.engine.client import Engine
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, Message, Sampling, TextDelta
from tests.support.paths import DATA

GREEDY = Sampling(temperature=0, presence_penalty=0)
QUESTIONS = [json.loads(line) for line in (DATA / "questions.jsonl").read_text().splitlines()]
TEXT_QUESTIONS = [(one["question"], one["answer"]) for one in QUESTIONS if "image" not in one]


@pytest.fixture(scope="module", params=["Q8_0", "Q4_K_M"])
def model(request: pytest.FixtureRequest, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / f"toy-{request.param}.gguf"
    convert(make_plan(toy, path, QuantizeOptions(request.param, vision=False)), threads=2)
    return path


@pytest.mark.parametrize("think", [True, False])
def test_every_answer_is_right(model: Path, tmp_path: Path, think: bool) -> None:
    wrong = {}
    with Engine.start(tmp_path) as engine:
        list(engine.load(model, LoadParams(context_tokens=512)))
        for question, answer in TEXT_QUESTIONS:
            events = engine.generate(Generate((Message("user", question),), think, GREEDY))
            output = "".join(
                event.text for event in events if isinstance(event, TextDelta) and event.channel == "answer"
            )
            if output.strip() != answer:
                wrong[question] = output
    assert wrong == {}
    assert len(TEXT_QUESTIONS) == 245


@pytest.mark.slow
def test_every_answer_is_right_in_a_pipe(model: Path) -> None:
    """Every second question is asked with thinking, which must not be printed."""

    def ask(number: int) -> tuple[str, bytes, int]:
        thinking = "--think" if number % 2 else "--no-think"
        command = [sys.executable, "-m", "qwenctl", "chat", "-m", str(model), "-t", "1", "-c", "512", thinking]
        greedy = ["--temp", "0", "--presence-penalty", "0"]
        question = TEXT_QUESTIONS[number][0].encode()
        done = subprocess.run([*command, *greedy], input=question, capture_output=True, timeout=120, check=False)
        return done.stdout.decode(), done.stderr, done.returncode

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, range(len(TEXT_QUESTIONS))))
    assert found == [(f"{answer}\n", b"", 0) for _, answer in TEXT_QUESTIONS]
