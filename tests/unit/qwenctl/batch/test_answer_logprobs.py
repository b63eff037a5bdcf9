"""Log probabilities of an answer, from a server or the engine, are written in OpenAI's form and beside the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenctl.batch.backends.openai_format import RetryableResponse, parse_response
from qwenctl.batch.output.formats import render
from qwenctl.batch.records import Answer, GenerationParams, Record
from qwenctl.protocol.messages import Message, TokenLogprob

CONTENT: list[dict[str, Any]] = [
    {
        "token": "C",
        "logprob": -0.25,
        "bytes": [67],
        "top_logprobs": [
            {"token": "C", "logprob": -0.25, "bytes": [67]},
            {"token": "<|im_end|>", "logprob": -2.5, "bytes": None},
        ],
    },
    {"token": "\ufffd", "logprob": -1.0, "bytes": [230, 151], "top_logprobs": []},
]


def record(logprobs: int | None = 2, answers: int = 1, max_tokens: int = -1) -> Record:
    params = GenerationParams(logprobs=logprobs, answers=answers, max_tokens=max_tokens)
    return Record("a", 1, (Message("user", "x"),), params)


def answer(content: object, asked: Record) -> Answer:
    choice = {"message": {"content": "C"}, "finish_reason": "stop", "logprobs": content}
    return parse_response("http://h/v1", 200, {}, json.dumps({"choices": [choice]}).encode(), asked)


def test_probabilities_of_a_server_are_written_as_it_reports_them() -> None:
    found = answer({"content": CONTENT, "refusal": None}, record())
    line = json.loads(render(record(), "f", found, "openai", "", "m"))
    assert line["response"]["body"]["choices"][0]["logprobs"] == {"content": CONTENT, "refusal": None}
    assert json.loads(render(record(), "f", found, "qwenctl", "", "m"))["logprobs"] == CONTENT


def test_each_of_several_answers_has_its_own_probabilities() -> None:
    first, other = (Answer("x", "", (), "stop", {}, logprobs=(TokenLogprob("x", value),)) for value in (-1.0, -2.0))
    both = Answer("x", "", (), "stop", {}, logprobs=first.logprobs, others=(other,))
    own = json.loads(render(record(answers=2), "f", both, "qwenctl", "", "m"))
    assert [choice["logprobs"][0]["logprob"] for choice in own["choices"]] == [-1.0, -2.0]
    body = json.loads(render(record(answers=2), "f", both, "openai", "", "m"))["response"]["body"]
    assert [choice["logprobs"]["content"][0]["logprob"] for choice in body["choices"]] == [-1.0, -2.0]


@pytest.mark.parametrize("content", [None, {}, {"content": None}, {"content": []}])
def test_answer_without_tokens_has_an_empty_list(content: object) -> None:
    assert answer(content, record()).logprobs == ()
    assert answer({"content": CONTENT}, record(max_tokens=0)).logprobs == ()


def test_field_is_left_out_where_nothing_asks_for_it() -> None:
    found = answer({"content": CONTENT}, record(None))
    assert found.logprobs is None
    assert "logprobs" not in json.loads(render(record(None), "f", found, "qwenctl", "", "m"))
    line = json.loads(render(record(None), "f", found, "openai", "", "m"))
    assert line["response"]["body"]["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("value", [None, float("-inf"), float("nan")])
def test_probability_that_json_does_not_have_is_openais_number_for_none(value: float | None) -> None:
    [one] = answer({"content": [{"token": "x", "logprob": value}]}, record()).logprobs or ()
    assert one == TokenLogprob("x", -9999.0)


@pytest.mark.parametrize("content", [[1], {"content": [1]}, {"content": [{"token": "x"}]}, {"content": 5}])
def test_probabilities_of_another_form_are_no_chat_completion(content: object) -> None:
    with pytest.raises(RetryableResponse, match="not a chat completion"):
        answer(content, record())
