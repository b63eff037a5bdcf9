"""Many records in one engine: answers are independent of each other, and a failing record affects no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.engine.client import Engine
from qwenctl.protocol.batch import BatchStarted, RecordDone, RecordFailed, StartBatch, SubmitRequest
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta
from tests.support.batching import GREEDY, QUESTIONS, add, answers, loaded_engine

WARM = Sampling(temperature=1.5, top_k=50, top_p=1.0, presence_penalty=0.5, seed=7)
TEXTS = [question["question"] for question in QUESTIONS[:24]]
SYSTEM = Message("system", "You are a helpful assistant. " * 12)


@pytest.fixture(scope="module")
def engine(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with loaded_engine(toy_gguf, tmp_path_factory.mktemp("logs")) as engine:
        yield engine


def output(found: dict[int, RecordDone | RecordFailed]) -> dict[int, tuple[str, str, str]]:
    return {
        number: (one.text, one.thinking, one.reason) for number, one in found.items() if isinstance(one, RecordDone)
    }


def mixed_records(count: int) -> list[SubmitRequest]:
    """Records with short and long prompts, with and without thinking, greedy and sampled."""
    records = []
    for number in range(count):
        text = TEXTS[number % len(TEXTS)] + " please" * (number % 5 * 20)
        sampling = GREEDY if number % 3 else WARM
        records.append(add(number, text, enable_thinking=bool(number % 2), sampling=sampling, max_tokens=60))
    return records


@pytest.fixture(scope="module")
def alone(engine: Engine) -> dict[int, tuple[str, str, str]]:
    """The output when the records are answered one at a time."""
    found, _ = answers(engine, mixed_records(20), 1, shares=False)
    assert len(output(found)) == 20
    return output(found)


@pytest.mark.parametrize("parallel", [2, 5, 20])
def test_answers_are_identical_at_every_parallelism(
    engine: Engine, alone: dict[int, tuple[str, str, str]], parallel: int
) -> None:
    assert output(answers(engine, mixed_records(20), parallel)[0]) == alone


def test_answers_are_identical_in_another_order_with_other_records(
    engine: Engine, alone: dict[int, tuple[str, str, str]]
) -> None:
    others = [add(100 + number, f"Count from {number} to 9.", max_tokens=40) for number in range(6)]
    found, _ = answers(engine, [*others, *reversed(mixed_records(20))], 7)
    assert {number: text for number, text in output(found).items() if number < 100} == alone


def test_batch_answer_equals_the_chat_answer(engine: Engine) -> None:
    found, _ = answers(engine, [add(number, text, enable_thinking=True) for number, text in enumerate(TEXTS)], 8)
    for number, text in enumerate(TEXTS):
        one = found[number]
        assert isinstance(one, RecordDone)
        assert one.text == QUESTIONS[number]["answer"], text


def test_common_prefix_is_evaluated_once_without_changing_answers(engine: Engine) -> None:
    records = [
        SubmitRequest(number, (SYSTEM, Message("user", text)), False, GREEDY, 30) for number, text in enumerate(TEXTS)
    ]
    apart, counted = answers(engine, records, 4, shares=False)
    shared, fewer = answers(engine, records, 4)
    assert output(shared) == output(apart)
    assert counted.shared_tokens == 0
    assert fewer.prompt_tokens < counted.prompt_tokens / 3
    cached = [one.usage.cached_tokens for one in shared.values() if isinstance(one, RecordDone)]
    assert sorted(cached)[1] > 60  # one record may be in progress before the next arrives


def test_nested_prefixes_are_shared_without_changing_answers(engine: Engine) -> None:
    """All records share a system prompt and some share a document, in mixed order."""
    records = [
        SubmitRequest(
            number,
            (SYSTEM, Message("user", f"Document {number % 3}: {'word ' * 60 + str(number % 3)}\n\n{TEXTS[number]}")),
            False,
            GREEDY,
            20,
        )
        for number in range(18)
    ]
    apart, counted = answers(engine, records, 3, shares=False)
    shared, fewer = answers(engine, records, 3)
    assert output(shared) == output(apart)
    assert fewer.prompt_tokens < counted.prompt_tokens / 3


def test_repeated_prompt_is_evaluated_once(engine: Engine) -> None:
    prompt = "repeat: " + "blue " * 40
    found, progress = answers(engine, [add(number, prompt, max_tokens=5) for number in range(12)], 4)
    assert len({one.text for one in found.values() if isinstance(one, RecordDone)}) == 1
    assert progress.prompt_tokens < 2 * next(iter(found.values())).usage.prompt_tokens  # type: ignore[union-attr]


def test_invalid_record_fails_without_affecting_other_records(engine: Engine) -> None:
    records = [
        add(0, TEXTS[0]),
        add(1, "word " * 600),
        add(2, TEXTS[1], json_schema='{"type": "nonsense"}'),
        add(3, "x" * 100_000),
        add(4, TEXTS[2]),
    ]
    found, _ = answers(engine, records, 3)
    failed = {number: one for number, one in found.items() if isinstance(one, RecordFailed)}
    assert failed.keys() == {1, 2, 3}
    assert "a record can have 512" in failed[1].message
    assert failed[1].hint == "-c 2048 makes room for it"
    assert "JSON schema" in failed[2].message
    assert failed[3].message.startswith("prompt has more than ")
    assert output(found)[4][0] == QUESTIONS[2]["answer"]


def test_each_record_has_its_own_limits(engine: Engine) -> None:
    colors = json.dumps({"enum": ["mauve", "teal"]})
    records = [
        add(0, TEXTS[0], max_tokens=3),
        add(1, TEXTS[0], enable_thinking=True, think_budget=2),
        add(2, "What is 2 + 3?", json_schema=colors),
        add(3, "repeat: " + "blue " * 80),
    ]
    found, _ = answers(engine, records, 4)
    cut, budget, schema, _ = (found[number] for number in range(4))
    assert isinstance(cut, RecordDone)
    assert (cut.reason, cut.usage.answer_tokens) == ("length", 3)
    assert isinstance(budget, RecordDone)
    assert budget.thinking_end == "budget"
    assert isinstance(schema, RecordDone)
    assert json.loads(schema.text) in ("mauve", "teal")


def test_limit_of_zero_means_zero(engine: Engine) -> None:
    records = [
        add(0, "Spell cow.", max_tokens=0),
        add(1, "Spell cow.", enable_thinking=True, think_budget=0, max_tokens=4),
    ]
    found, _ = answers(engine, records, 2)
    nothing, unthinking = found[0], found[1]
    assert isinstance(nothing, RecordDone)
    assert isinstance(unthinking, RecordDone)
    assert (nothing.text, nothing.thinking, nothing.reason) == ("", "", "length")
    assert (unthinking.thinking, unthinking.usage.thinking_tokens) == ("", 0)
    assert unthinking.text
    *events, finished = engine.generate(add(1, "Spell cow.", max_tokens=0).request)
    assert isinstance(finished, GenerationFinished)
    assert (finished.reason, finished.usage.answer_tokens, finished.usage.thinking_tokens) == ("length", 0, 0)
    assert not any(isinstance(event, TextDelta) for event in events)


def test_answer_stops_when_the_context_of_its_record_is_full(engine: Engine) -> None:
    record = add(0, "Count from 1 to 9.")
    whole, _ = answers(engine, [record], 2)
    one = whole[0]
    assert isinstance(one, RecordDone)
    room = one.usage.context_used - 3
    [cut] = answers(engine, [record], 2, room=room)[0].values()
    assert isinstance(cut, RecordDone)
    assert (one.reason, cut.reason, cut.usage.context_used) == ("stop", "context", room)
    assert one.text.startswith(cut.text)


def test_parallelism_is_measured_when_not_given(engine: Engine) -> None:
    engine.send(StartBatch(LoadParams(context_tokens=256, threads=1), 0, max_parallel=4))
    opened = engine.receive(60)
    assert isinstance(opened, BatchStarted)
    assert 1 <= opened.parallel <= 4
    assert {"1", "2"} <= opened.rates.keys() <= {"1", "2", "4"}


def test_engine_answers_a_chat_after_a_batch(engine: Engine) -> None:
    answers(engine, [add(0, TEXTS[0])], 2)
    request = Generate((Message("user", TEXTS[0]),), False, GREEDY)
    events = [event for event in engine.generate(request) if isinstance(event, TextDelta | GenerationFinished)]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == QUESTIONS[0]["answer"]
