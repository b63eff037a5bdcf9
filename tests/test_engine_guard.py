"""An answer ends: thinking has a budget, what only repeats itself is broken off; no list, table or program is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.sampling.stop_conditions import LONGEST_PERIOD, MIN_LOOP_TOKENS, RepetitionDetector
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta
from tests.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.cancellation:CancelFlag")

GREEDY = Sampling(temperature=0, presence_penalty=0)
ROOT = Path(__file__).resolve().parent.parent


def first_alarm(tokens: list[int], least_tokens: int) -> int | None:
    """After how many tokens a loop is seen."""
    detector = RepetitionDetector(least_tokens)
    return next((count for count, token in enumerate(tokens, 1) if detector.observe(token)), None)


@given(st.lists(st.integers(0, 1000), max_size=300), st.integers(1, LONGEST_PERIOD), st.integers(0, 2**32))
def test_a_loop_is_broken_within_three_rounds_once_it_is_long_enough(before: list[int], period: int, seed: int) -> None:
    draw = random.Random(seed)
    span = [draw.randrange(1001, 250_000) for _ in range(period)]
    for least in MIN_LOOP_TOKENS.values():
        needed = max(3 * period, least)
        assert first_alarm(before + span * (needed // period + 1), least) == len(before) + needed


@st.composite
def repetitive(draw: st.DrawFn) -> list[int]:
    """Spans said several times, some with a slip, and other tokens between."""
    tokens: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        span = draw(st.lists(st.integers(0, 2), min_size=1, max_size=24))
        output = span * draw(st.integers(1, 60 // len(span) + 2))
        if draw(st.booleans()):
            output[draw(st.integers(0, len(output) - 1))] = 3
        tokens += output + draw(st.lists(st.integers(0, 9), max_size=5))
    return tokens


def is_loop(tokens: list[int], least_tokens: int) -> bool:
    """By definition: the last tokens are three rounds of a period or more, `least_tokens` or more in all."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // 3) + 1):
        rounds = max(3 * period, least_tokens)
        end = tokens[-rounds:]
        if len(end) == rounds and end[period:] == end[:-period]:
            return True
    return False


@given(repetitive())
def test_a_loop_is_seen_at_the_very_token_that_makes_it_one(tokens: list[int]) -> None:
    detector, least = RepetitionDetector(MIN_LOOP_TOKENS["thinking"]), MIN_LOOP_TOKENS["thinking"]
    for count, token in enumerate(tokens, 1):
        assert detector.observe(token) == is_loop(tokens[:count], least)


def tokens_of(model: LoadedModel, text: str) -> list[int]:
    return list(model.tokenizer.tokenize_text(text))


def normal_answers() -> list[str]:
    """Two hundred texts as a model might write them: programs, prose, lists and tables, some very regular."""
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
def test_no_normal_answer_is_taken_for_a_loop(toy_model: LoadedModel) -> None:
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
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_thought_is_closed_at_the_end_of_its_budget_and_the_answer_given(toy_model: LoadedModel, budget: int) -> None:
    asked = (Message("user", "What is the capital of France?"),)
    thinking, answer, finished = run(toy_model, Generate(asked, True, GREEDY, 100, budget))
    free, _, unlimited = run(toy_model, Generate(asked, True, GREEDY, 100))
    assert (finished.thinking_end, unlimited.thinking_end) == ("budget", "model")
    assert thinking.endswith("I have to give the solution based on the thinking directly now.")
    assert thinking[:3] == free[:3]
    assert answer
    assert finished.reason == "stop"


@pytest.mark.own_process
def test_a_budget_that_is_not_used_up_changes_nothing(toy_model: LoadedModel) -> None:
    asked = (Message("user", "What is the capital of France?"),)
    assert (
        run(toy_model, Generate(asked, True, GREEDY, 100, 99))[:2] == run(toy_model, Generate(asked, True, GREEDY))[:2]
    )


@pytest.mark.own_process
@pytest.mark.parametrize("think", [True, False])
def test_a_model_caught_in_a_loop_is_freed(toy_model: LoadedModel, think: bool) -> None:
    """Punished for every new word, the toy says the same for ever."""
    stuck = Sampling(temperature=0, presence_penalty=0, repeat_penalty=0.1)
    thinking, answer, finished = run(toy_model, Generate((Message("user", "Spell cow."),), think, stuck))
    assert finished.reason == "loop"
    assert finished.usage.answer_tokens < 2 * MIN_LOOP_TOKENS["answer"]
    if think:
        assert finished.thinking_end == "loop"
        assert finished.usage.thinking_tokens < 200
        assert thinking
    assert answer
