"""Answers under a schema or grammar are always valid, thinking is unconstrained, and invalid grammars are refused."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling, TextDelta
from tests.support.own_process import late

if TYPE_CHECKING:
    from qwenctl.engine.model import LoadedModel

pytestmark = pytest.mark.own_process
generate = late("qwenctl.engine.generation.generate:generate")
CancelFlag = late("qwenctl.engine.llama.callbacks:CancelFlag")

ASKED = (Message("user", "What is the capital of France?"),)
GREEDY = Sampling(temperature=0, presence_penalty=0)


def run(model: LoadedModel, request: Generate) -> tuple[str, str, GenerationFinished]:
    *events, finished = generate(model, request, CancelFlag())
    assert isinstance(finished, GenerationFinished)
    tokens = [event for event in events if isinstance(event, TextDelta)]
    texts = ("".join(token.text for token in tokens if token.channel == channel) for channel in ("thinking", "answer"))
    return (*texts, finished)  # type: ignore[return-value]


def schema(draw: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random schema of commonly used parts. All values are bounded, so that every answer ends."""
    kind = draw.choice(["string", "integer", "boolean", "enum", "null"] + ["object", "array", "any of"] * (depth > 0))
    match kind:
        case "string":
            least = draw.randrange(4)
            return {"type": "string", "minLength": least, "maxLength": least + draw.randrange(12)}
        case "integer":
            return {"type": "integer", "minimum": -draw.randrange(100), "maximum": draw.randrange(10_000)}
        case "enum":
            return {"enum": draw.sample(["red", "green", "dark blue", 'quo"te', 7, True, None], 3)}
        case "array":
            least = draw.randrange(3)
            items = schema(draw, depth - 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + 1 + draw.randrange(3)}
        case "any of":
            return {"anyOf": [schema(draw, depth - 1) for _ in range(2)]}
        case "object":
            return object_schema(draw, depth)
    return {"type": kind}


def object_schema(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(["name", "age", "where to", "größe", "x", "items"], draw.randrange(1, 4))
    required = [name for name in names if draw.random() < 0.7]
    properties = {name: schema(draw, depth - 1) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def is_valid(value: Any, wanted: dict[str, Any]) -> bool:
    if "enum" in wanted:
        return any(value == one and type(value) is type(one) for one in wanted["enum"])
    if "anyOf" in wanted:
        return any(is_valid(value, one) for one in wanted["anyOf"])
    match wanted["type"]:
        case "string":
            return isinstance(value, str) and wanted["minLength"] <= len(value) <= wanted["maxLength"]
        case "integer":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and wanted["minimum"] <= value <= wanted["maximum"]
        case "boolean":
            return isinstance(value, bool)
        case "array":
            fits = isinstance(value, list) and wanted["minItems"] <= len(value) <= wanted["maxItems"]
            return fits and all(is_valid(one, wanted["items"]) for one in value)
        case "object":
            known = isinstance(value, dict) and set(wanted["required"]) <= set(value) <= set(wanted["properties"])
            return known and all(is_valid(one, wanted["properties"][name]) for name, one in value.items())
    return value is None


def test_answer_is_valid_for_any_schema(toy_model: LoadedModel) -> None:
    draw = random.Random(1)
    for number in range(200):
        wanted = object_schema(draw, 2)
        sampling = Sampling(temperature=draw.choice([0.0, 1.0, 3.0]), top_k=0, top_p=1.0, seed=number)
        request = Generate(ASKED, number % 2 == 0, sampling, 2000, think_budget=20, json_schema=json.dumps(wanted))
        _, answer, finished = run(toy_model, request)
        assert finished.reason == "stop", (wanted, answer)
        assert is_valid(json.loads(answer), wanted), (wanted, answer)


def test_schema_does_not_change_the_thinking(toy_model: LoadedModel) -> None:
    wanted = json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
    thinking, answer, _ = run(toy_model, Generate(ASKED, True, GREEDY, json_schema=wanted, max_tokens=100))
    assert thinking == run(toy_model, Generate(ASKED, True, GREEDY))[0]
    assert answer.startswith("{")


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "yes" | "no"', "yes|no"),
        ('root ::= [0-9]+ "." [0-9] [0-9]', r"\d+\.\d\d"),
        ('root ::= item{2,3}\nitem ::= "- " [a-z]{1,8} "\\n"', "(- [a-z]{1,8}\n){2,3}"),
        ('root ::= root " la" | "la"', "la( la)*"),
        ('start: "a" /[bc]+/ "d"', "a[bc]+d"),
        ('root ::= "Größe " ("日本" | "🙂")', "Größe (日本|🙂)"),
        ('root ::= "<think>" ("</think>" | "<|im_end|>") "<tool_call>"', r"<think>(</think>|<\|im_end\|>)<tool_call>"),
    ],
)
def test_answer_matches_its_grammar(toy_model: LoadedModel, grammar: str, pattern: str) -> None:
    for seed in range(5):
        sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=seed)
        _, answer, finished = run(toy_model, Generate(ASKED, False, sampling, 200, grammar=grammar))
        assert finished.reason in ("stop", "length", "loop")
        assert finished.reason != "stop" or re.fullmatch(pattern, answer)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"grammar": "root ::= root"}, "the grammar cannot be used: nothing can match it"),
        ({"grammar": 'root ::= "a'}, "the grammar cannot be used: "),
        ({"grammar": 'start ::= "a"'}, "the grammar cannot be used: "),
        ({"grammar": "root ::= nothing"}, "the grammar cannot be used: "),
        ({"grammar": "{" * 10_000}, "the grammar cannot be used: "),
        ({"json_schema": "{"}, "the JSON schema cannot be used: "),
        ({"json_schema": '{"type": "planet"}'}, "the JSON schema cannot be used: "),
        ({"json_schema": '{"$ref": "#/nowhere"}'}, "the JSON schema cannot be used: "),
        ({"json_schema": "[]"}, "the JSON schema cannot be used: "),
    ],
    ids=[
        "endless recursion",
        "unclosed string",
        "no root rule",
        "undefined rule",
        "deep nesting",
        "broken JSON",
        "unknown type",
        "dangling reference",
        "schema that is a list",
    ],
)
def test_invalid_grammar_or_schema_is_refused(toy_model: LoadedModel, fields: dict[str, str], reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        run(toy_model, Generate(ASKED, **fields))  # type: ignore[arg-type]
    assert caught.value.failed.kind == "setting"
    assert caught.value.failed.message.startswith(reason)


def test_grammar_that_fails_within_an_answer_does_not_pass_for_its_end(toy_model: LoadedModel) -> None:
    grammar = toy_model.grammars.compile(Generate(ASKED, grammar='root ::= "yes" [a-z]+'))
    [wrong, *_] = toy_model.tokenizer.tokenize_plain(b"0")
    grammar.accept(wrong)  # which leaves it as a grammar does that became too complex
    with pytest.raises(RequestError) as caught:
        grammar.mask_logits(np.zeros(toy_model.vocabulary_size, np.float32))
    assert caught.value.failed.message.startswith("the grammar or schema cannot be used: ")
