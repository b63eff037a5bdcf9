"""With experts in RAM and the rest on the device, chats, batches, drafts, images and states give the same answers.

Most tests share one engine, because each new process has to load its shaders from disk. The shaders differ by the
number of tokens or sequences at once, from one to eight, so the tests use at most two.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.engine.client import Engine
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.protocol.batch import RecordDone
from qwenctl.protocol.media import VisionSettings
from qwenctl.protocol.messages import Message
from tests.support.batching import add, answers
from tests.support.command_line import run
from tests.support.pictures import BLACK, RED, media
from tests.support.turns import QUESTIONS, ask, with_turn
from tests.vulkan.device import (
    ALL_ON_THE_DEVICE,
    EXPERTS_IN_RAM,
    MIB,
    NAME,
    ON_THE_CPU,
    PATIENCE,
    device_memory,
    planned,
)

ASKED = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
SEEN = "What is in the picture?"
OPTIONS = ("--temp", "0", "--presence-penalty", "0", "-t", "1", "-c", "2048")


@contextmanager
def engine_with(path: Path, constraints: PlacementConstraints, logs: Path) -> Iterator[Engine]:
    """An engine that has loaded the model as planned, and the mmproj file beside it."""
    with Engine.start(logs) as engine:
        list(engine.load(path, planned(path, constraints).settings))
        for mmproj in path.parent.glob("mmproj*"):
            engine.configure_vision(VisionSettings(str(mmproj)))
        yield engine


@pytest.fixture(scope="module")
def engine(seeing_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_with(seeing_gguf, EXPERTS_IN_RAM, tmp_path_factory.mktemp("logs")) as started:
        yield started


def answer_text(engine: Engine, question: str, *pictures: Path) -> str:
    message = Message("user", question, media=tuple(map(media, pictures)))
    return ask(engine, (message,), think=False).message.content


@pytest.fixture(scope="module")
def chat(toy_gguf: Path) -> subprocess.CompletedProcess[bytes]:
    """The first chat on this machine, which runs the check of llama.cpp and the device for all later tests."""
    return run("chat", "-m", str(toy_gguf), *OPTIONS, "--cpu-moe", ASKED, stdin=b"", timeout_s=PATIENCE)


def test_command_line_chat_is_answered(chat: subprocess.CompletedProcess[bytes]) -> None:
    stderr = chat.stderr.decode()
    assert (chat.stdout.decode().strip(), chat.returncode) == (ANSWER, 0), stderr
    assert stderr == f"qwenctl: warning: checking {NAME} (once)\n"


@pytest.mark.usefixtures("chat")
def test_chat_reloads_with_less_memory_when_the_device_refuses(toy_gguf: Path) -> None:
    with device_memory(1 << 30, enforced=12 * MIB):
        done = run("chat", "-m", str(toy_gguf), *OPTIONS, ASKED, stdin=b"", timeout_s=PATIENCE)
    assert (done.stdout.decode().strip(), done.returncode) == (ANSWER, 0), done.stderr.decode()
    assert f"{NAME} did not have enough memory for the plan; trying again with " in done.stderr.decode()


@pytest.mark.parametrize(("path", "shape"), [(RED, "A red triangle."), (BLACK, "A black square.")])
def test_image_is_described(engine: Engine, path: Path, shape: str) -> None:
    assert answer_text(engine, SEEN, path) == shape


def test_batch_answers_are_the_same_at_parallelism_one_and_two(engine: Engine) -> None:
    asked = [ASKED, "What is 2 + 3?", "Spell cow.", "What is the opposite of hot?"]
    records = [add(number, text) for number, text in enumerate(asked)]
    together, alone = (answers(engine, records, parallel, patience_s=PATIENCE)[0] for parallel in (2, 1))
    assert [one.text for one in together.values() if isinstance(one, RecordDone)].count(ANSWER) == 1
    assert {number: _text(one) for number, one in together.items()} == {n: _text(one) for n, one in alone.items()}


def _text(event: object) -> str:
    assert isinstance(event, RecordDone), event
    return event.text


@pytest.mark.parametrize("draft", ["mtp", "ngram"])
def test_answers_are_the_same_with_drafts(engine: Engine, seeing_gguf: Path, tmp_path: Path, draft: str) -> None:
    asked = (ASKED, "Count from 3 to 8.", "Spell flamingo.")
    constraints = replace(EXPERTS_IN_RAM, draft=draft, draft_min=1, draft_max=1, mtp=draft == "mtp")  # type: ignore[arg-type]
    with engine_with(seeing_gguf, constraints, tmp_path) as drafting:
        assert [answer_text(drafting, text) for text in asked] == [answer_text(engine, text) for text in asked]
        stats = drafting.stats()
        print(f"\n{draft}: {stats.accepted_tokens} of {stats.drafted_tokens} drafted tokens accepted")
        assert stats.drafted_tokens > 0


@pytest.mark.parametrize(
    ("saved_by", "restored_by"),
    [(ON_THE_CPU, EXPERTS_IN_RAM), (EXPERTS_IN_RAM, ON_THE_CPU), (EXPERTS_IN_RAM, ALL_ON_THE_DEVICE)],
)
def test_saved_state_is_restored_in_another_placement(
    toy_gguf: Path, tmp_path: Path, saved_by: PlacementConstraints, restored_by: PlacementConstraints
) -> None:
    keep = tmp_path / "state"
    with ExitStack() as running:
        one, other = (running.enter_context(engine_with(toy_gguf, each, tmp_path)) for each in (saved_by, restored_by))
        messages: tuple[Message, ...] = ()
        for question in QUESTIONS[:2]:
            messages = with_turn(messages, question, ask(one, (*messages, Message("user", question)), think=False))
        one.warm_prefix(messages, enable_thinking=False, state_path=keep)
        assert one.flush().error == ""
        restored = other.restore(keep)
        assert (restored.reason, restored.tokens > 0) == ("", True)
        asked = (*messages, Message("user", "What is my name?"))
        found, wanted = (ask(engine, asked, think=False) for engine in (other, one))
        assert found.message == wanted.message
        assert "Linus" in found.message.content
        assert found.usage.cached_tokens > found.evaluated
