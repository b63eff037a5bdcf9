"""Answers end: thinking has a budget and repetition loops are stopped, but lists, tables and programs are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qwenctl.engine.sampling.stop_conditions import MIN_LOOP_TOKENS
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta
from tests.support.loops import first_alarm
from tests.support.own_process import late
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")

GREEDY = Sampling(temperature=0, presence_penalty=0)


def tokens_of(model: LoadedModel, text: str) -> list[int]:
    return list(model.tokenizer.tokenize_text(text))


def normal_answers() -> list[str]:
    """Two hundred texts that a model might write: programs, prose, lists and tables, some very regular."""
    sources = [path.read_text() for path in sorted((ROOT / "qwenctl").rglob("*.py"))]
    sources += [path.read_text() for path in sorted((ROOT / "quantize").rglob("*.py"))]
    sources += [(ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "Makefile", ".ci/setup.sh")]
    chunks = [text[start : start + 2000] for text in sources for start in range(0, len(text), 2000)][:150]
    count = range(1, 101)
    regular = [
        "".join(f"{n}. item {n}\n" for n in count),
        "| a | b | c |\n|---|---|---|\n" + "".join(f"| {n} | {n * n} | {n % 7} |\n" for n in count),
        "".join(f"- [ ] step {n}\n" for n in count),
        "\n".join(f"{n} x 7 = {7 * n}" for n in count),
        "\n".join("0 0 0 0 0 0 0 0" for _ in range(8)),
        "\n".join(f'{{"id": {n}, "name": "user{n}", "active": true}},' for n in count),
        "\n".join(f"    self.assertEqual(f({n}), {n + 1})" for n in count),
        "Yes. " * 20,
        "-" * 80 + "\ntitle\n" + "-" * 80,
        "row, row, row your boat\n" * 3,
    ]
    return chunks + [text[: len(text) * share // 5] for text in regular for share in range(1, 6)]


@pytest.mark.own_process
def test_regular_text_is_not_detected_as_a_loop(toy_model: LoadedModel) -> None:
    answers = normal_answers()
    alarms = [text[:80] for text in answers if first_alarm(tokens_of(toy_model, text), MIN_LOOP_TOKENS["answer"])]
    assert alarms == []
    assert len(answers) == 200


def run(model: LoadedModel, request: Generate) -> tuple[str, str, GenerationFinished]:
    *events, finished = generate(model, request, CancelFlag())
    assert isinstance(finished, GenerationFinished)
    tokens = [event for event in events if isinstance(event, TextDelta)]
    texts = ("".join(token.text for token in tokens if token.channel == channel) for channel in ("thinking", "answer"))
    return (*texts, finished)  # type: ignore[return-value]


@pytest.mark.own_process
@pytest.mark.parametrize("budget", [1, 3])  # with 0 it does not begin
def test_thinking_ends_at_its_budget_and_an_answer_follows(toy_model: LoadedModel, budget: int) -> None:
    asked = (Message("user", "What is the capital of France?"),)
    thinking, answer, finished = run(toy_model, Generate(asked, True, GREEDY, 100, budget))
    free, _, unlimited = run(toy_model, Generate(asked, True, GREEDY, 100))
    assert (finished.thinking_end, unlimited.thinking_end) == ("budget", "model")
    assert thinking.endswith("I have to give the solution based on the thinking directly now.")
    assert thinking[:3] == free[:3]
    assert answer
    assert finished.reason == "stop"


@pytest.mark.own_process
def test_unused_thinking_budget_does_not_change_the_answer(toy_model: LoadedModel) -> None:
    asked = (Message("user", "What is the capital of France?"),)
    assert (
        run(toy_model, Generate(asked, True, GREEDY, 100, 99))[:2] == run(toy_model, Generate(asked, True, GREEDY))[:2]
    )


@pytest.mark.own_process
@pytest.mark.parametrize("think", [True, False])
def test_repetition_loop_is_stopped(toy_model: LoadedModel, think: bool) -> None:
    """With a penalty on every new word, the toy model repeats itself forever."""
    stuck = Sampling(temperature=0, presence_penalty=0, repeat_penalty=0.1)
    thinking, answer, finished = run(toy_model, Generate((Message("user", "Spell cow."),), think, stuck))
    assert finished.reason == "loop"
    assert finished.usage.answer_tokens < 2 * MIN_LOOP_TOKENS["answer"]
    if think:
        assert finished.thinking_end == "loop"
        assert finished.usage.thinking_tokens < 200
        assert thinking
    assert answer
