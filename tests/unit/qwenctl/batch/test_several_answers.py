"""A record that asks for several answers gets them together, each with a seed of its own; the others get theirs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.output.formats import render
from qwenctl.batch.records import Answer, GenerationParams, Record, RecordError
from qwenctl.batch.runner import SeveralAnswersBackend, seed_of_answer
from qwenctl.protocol.messages import Message, ToolCall
from tests.support.echo_backend import EchoBackend


def record(key: str, answers: int) -> Record:
    return Record(key, 1, (Message("user", key),), GenerationParams(answers=answers))


def outcomes(backend: EchoBackend, records: list[Record]) -> dict[int, Answer | RecordError]:
    several = SeveralAnswersBackend(backend, 7)
    for number, one in enumerate(records):
        several.submit(number, one)
    found: dict[int, Answer | RecordError] = {}
    while len(found) < len(records):
        found.update(several.collect(0))
    several.close()
    return found


def test_each_answer_has_a_seed_of_its_own_and_tokens_are_added() -> None:
    backend = EchoBackend(BackendStats())
    found = outcomes(backend, [record("a", 3), record("b", 1)])
    first, other = found[0], found[1]
    assert isinstance(first, Answer)
    assert isinstance(other, Answer)
    assert (len(first.others), other.others) == (2, ())
    assert first.usage == {"prompt_tokens": 10, "completion_tokens": 6}
    seeds = [one.params.sampling["seed"] for one in backend.asked if one.key == "a"]
    assert seeds == [seed_of_answer(record("a", 3), 7, place) for place in range(3)]
    assert len(set(seeds)) == 3
    assert backend.is_closed


def test_record_fails_if_one_of_its_answers_does() -> None:
    seed = seed_of_answer(record("a", 2), 7, 1)
    backend = EchoBackend(BackendStats(), fails=lambda one: one.params.sampling.get("seed") == seed)
    assert outcomes(backend, [record("a", 2)]) == {0: RecordError("refused", "no")}


@pytest.mark.parametrize("count", [1, 3])
def test_answers_are_choices_of_a_line(count: int) -> None:
    one = Answer("x", "", (), "stop", {"prompt_tokens": 1, "completion_tokens": 1})
    answer = replace(one, others=tuple(replace(one, text=f"y{number}") for number in range(count - 1)))
    texts = ["x", "y0", "y1"][:count]
    line = json.loads(render(record("a", count), "f", answer, "openai", "", "m"))
    choices = line["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == list(range(count))
    assert [choice["message"]["content"] for choice in choices] == texts
    own = json.loads(render(record("a", count), "f", answer, "qwenctl", "", "m"))
    assert own["answer"] == "x"
    assert [choice["answer"] for choice in own.get("choices", [own])] == texts
    selected = json.loads(render(record("a", count), "f", answer, "qwenctl", "answer", "m"))
    assert selected == (texts if count > 1 else "x")


@given(st.lists(st.text(max_size=3), min_size=2, max_size=4, unique=True))
def test_ids_are_those_of_one_record_even_if_others_ask_the_same_with_the_same_seed(keys: list[str]) -> None:
    answer = Answer("", "", (ToolCall("f", {}),), "tool_calls", {}, others=(Answer("x", "", (), "stop", {}),))
    found: list[str] = []
    for key in keys:
        line, again = (json.loads(render(record(key, 2), "same", answer, "openai", "", "m")) for _ in range(2))
        assert line == again
        body = line["response"]["body"]
        found += [line["id"], line["response"]["request_id"], body["id"]]
        found += [call["id"] for choice in body["choices"] for call in choice["message"].get("tool_calls", ())]
    assert len(set(found)) == 4 * len(keys)
