"""What a record can ask for: what asks for nothing is taken, what is given but empty or cannot be done fails alone."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwenctl.batch.backends.openai_format import request_body
from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.input.request_schema import EFFORTS, RequestForm
from qwenctl.batch.records import GenerationParams, InvalidRecord, Record, record_fingerprint, record_seed
from qwenctl.protocol.messages import Message
from qwenctl.tools.call_grammar import ToolChoice
from tests.support.paths import DATA

NAMED = {"type": "function", "function": {"name": "f"}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def read(data: bytes, **params: Any) -> list[Record | InvalidRecord]:
    return list(read_items(io.BytesIO(data), "in", InputFormat("jsonl", GenerationParams(**params))))


def read_one(fields: dict[str, Any]) -> Record | InvalidRecord:
    [found] = read(json.dumps(fields).encode())
    return found


def valid(fields: dict[str, Any]) -> Record:
    found = read_one(fields)
    assert isinstance(found, Record), found
    return found


def body(**fields: Any) -> dict[str, Any]:
    return {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "x"}], **fields}}


def reasons(name: str) -> dict[str | None, str]:
    """Why records of a file of test data fail, by id; "" for those that do not."""
    found = read((DATA / "batch" / name).read_bytes())
    return {one.key: "" if isinstance(one, Record) else one.reason for one in found if isinstance(one, Record)} | {
        one.id: one.reason for one in found if isinstance(one, InvalidRecord)
    }


def test_openai_records_that_ask_for_nothing_are_taken() -> None:
    assert reasons("minimal.jsonl") == {"history": "", "nulls": ""}
    failed = {name: reason for name, reason in reasons("openai.jsonl").items() if reason}
    assert failed.keys() == {"tc", "emb", "comp", "resp", "null", "b64"}
    assert failed["null"] == "the prompt is empty"
    assert failed["tc"] == "tool_choice names a function, but there are no tools"


def test_record_with_both_id_and_custom_id_is_taken() -> None:
    assert reasons("id-and-custom-id.jsonl") == {"a": ""}
    record = valid({"id": "mine", **body()})
    assert (record.key, record.passthrough) == ("a", {"record": {"id": "mine"}})
    assert valid({**body(), "custom_id": None, "id": 7}).key == "7"


def test_empty_prompts_and_constraints_fail_one_by_one() -> None:
    found = reasons("empty.jsonl")
    assert {name: found[name] for name in "abcd"} == dict.fromkeys("abc", "the prompt is empty") | {"d": ""}
    assert found["e"] == "json_schema is empty: leave it out, or use null"


@pytest.mark.parametrize(
    "given",
    [
        {"grammar": ""}, {"grammar": " \n"}, {"json_schema": " "}, {"stop": ""}, {"stop": []}, {"stop": ["a", ""]},
        {"tools": []}, {"response_format": {}}, {"response_format": {"type": "json_schema"}},
    ],
)  # fmt: skip
def test_constraint_that_is_given_but_empty_is_an_error(given: dict[str, Any]) -> None:
    assert isinstance(read_one({"prompt": "x", **given}), InvalidRecord)
    if not given.keys() & {"grammar", "json_schema"}:
        assert isinstance(read_one(body(**given)), InvalidRecord)
    assert isinstance(read_one({"prompt": "x", **dict.fromkeys(given)}), Record)


@pytest.mark.parametrize(
    "idle",
    [
        {"stop": None}, {"logit_bias": {}}, {"logit_bias": None}, {"parallel_tool_calls": True}, {"stream": False},
        {"service_tier": "auto"}, {"n": 1}, {"user": "u"}, {"store": False}, {"metadata": {"a": "b"}},
        {"logprobs": False}, {"top_logprobs": 0}, {"tool_choice": "auto"}, {"modalities": ["text"]},
        {"stream_options": None}, {"audio": None}, {"functions": []}, {"web_search_options": {}}, {"prediction": None},
        {"verbosity": "medium"}, {"parallel_tool_calls": False}, {"response_format": {"type": "text"}},
    ],
)  # fmt: skip
def test_field_that_asks_for_nothing_changes_nothing(idle: dict[str, Any]) -> None:
    assert valid(body(**idle)) == valid(body())


def test_plain_text_as_the_format_does_not_drop_the_schema_of_the_batch() -> None:
    [record] = read(json.dumps(body(response_format={"type": "text"})).encode(), json_schema='{"type": "object"}')
    assert isinstance(record, Record)
    assert record.params.json_schema == '{"type": "object"}'


def test_messages_as_openai_returns_them_are_taken() -> None:
    answer = {"role": "assistant", "content": "C", "refusal": None, "annotations": [], "audio": None}
    refused = {"role": "assistant", "content": None, "refusal": "No.", "function_call": None, "tool_calls": None}
    record = valid(body(messages=[answer, refused, {"role": "user", "content": "x"}]))
    assert record.messages == (Message("assistant", "C"), Message("assistant", "No."), Message("user", "x"))


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": " \n"}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "text", "text": ""}]}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": None}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": ""}],
        [{"role": "assistant", "content": None}],
    ],
)
def test_conversation_that_ends_in_nothing_is_an_error(messages: list[dict[str, Any]]) -> None:
    for fields in ({"messages": messages}, body(messages=messages)):
        bad = read_one(fields)
        assert isinstance(bad, InvalidRecord)
        assert bad.reason == "the prompt is empty"


def test_prompt_of_nothing_but_a_picture_or_a_result_is_taken() -> None:
    picture = {"type": "image_url", "image_url": {"url": "a.png"}}
    call = {"function": {"name": "f", "arguments": {}}}
    valid({"messages": [{"role": "user", "content": [picture]}]})
    valid({"messages": [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": ""}]})


def test_fields_of_the_user_are_copied_into_the_answer() -> None:
    record = valid({"id": "a", "prompt": "x", "category": "c", "source": {"n": [1]}, "answer": "42", "record": 3})
    assert record.passthrough == {"category": "c", "source": {"n": [1]}, "record": {"answer": "42", "record": 3}}
    assert valid({**body(), "split": "test"}).passthrough == {"split": "test"}


@pytest.mark.parametrize("wrong", ["max_token", "temprature", "json_shema", "reasoning_efort"])
def test_misspelled_field_is_an_error_and_no_field_of_the_user(wrong: str) -> None:
    bad = read_one({"prompt": "x", wrong: 1})
    assert isinstance(bad, InvalidRecord)
    assert bad.reason.startswith(f"unknown key {wrong!r}: did you mean ")


@pytest.mark.parametrize("effort", EFFORTS)
def test_reasoning_effort_limits_the_thinking(effort: str) -> None:
    params = valid(body(reasoning_effort=effort)).params
    assert params.think == (EFFORTS[effort] != 0)
    assert params.think_budget == (EFFORTS[effort] or -1)
    sent = request_body(valid(body(reasoning_effort=effort)), "m", 0)
    assert sent["chat_template_kwargs"]["enable_thinking"] == (EFFORTS[effort] != 0)
    assert sent.get("thinking_budget_tokens", -1) == (EFFORTS[effort] or -1)
    nothing = request_body(valid({"id": "a", "prompt": "x", "think": True, "think_budget": 0}), "m", 0)
    assert nothing["chat_template_kwargs"]["enable_thinking"] is False
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
    assert not valid(body(reasoning_effort="high", **kwargs)).params.think


def test_stop_and_n_are_taken_in_both_formats_and_sent_to_servers() -> None:
    for record in (valid(body(stop="a", n=3)), valid({"id": "a", "prompt": "x", "stop": ["a"], "n": 3})):
        assert (record.params.stop, record.params.answers) == (("a",), 3)
        assert request_body(record, "m", 0)["stop"] == ["a"]
    assert valid(body(tools=TOOLS, tool_choice="none")).params.tools == ()
    assert valid(body(repetition_penalty=1.05)).params.sampling == {"repeat_penalty": 1.05}


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, ToolChoice()),
        ({"tool_choice": "required"}, ToolChoice(is_required=True)),
        ({"tool_choice": NAMED}, ToolChoice(name="f")),
        ({"parallel_tool_calls": False}, ToolChoice(allows_parallel=False)),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ToolChoice(True, "", False)),
    ],
)
def test_choice_of_functions_is_taken_in_both_formats_and_sent_to_servers(
    given: dict[str, Any], choice: ToolChoice
) -> None:
    for record in (valid(body(tools=TOOLS, **given)), valid({"id": "a", "prompt": "x", "tools": TOOLS, **given})):
        assert record.params.tool_choice == choice
        sent = request_body(record, "m", 0)
        usual = {"tool_choice": "auto", "parallel_tool_calls": True}
        assert {**usual, **{name: sent[name] for name in usual if name in sent}} == {**usual, **given}
        changes = record_fingerprint(record, 0, {}) != record_fingerprint(valid(body(tools=TOOLS)), 0, {})
        assert changes == (choice != ToolChoice())


def test_probabilities_and_biases_are_taken_in_both_formats_and_sent_to_servers() -> None:
    given = {"logprobs": True, "top_logprobs": 2, "logit_bias": {"7": -100, "12": 1.5}}
    for record in (valid(body(**given)), valid({"id": "a", "prompt": "x", **given})):
        assert (record.params.logprobs, record.params.logit_bias) == (2, ((7, -100.0), (12, 1.5)))
        sent = request_body(record, "m", 0)
        assert {name: sent[name] for name in given} == given
    assert valid(body(logprobs=True)).params.logprobs == 0
    assert valid(body(logprobs=False, top_logprobs=0)).params.logprobs is None


@given(st.integers(-(2**63), 2**63 - 1))
@example(2**32 - 1)
@example(-1)
def test_any_whole_number_is_a_seed_and_none_is_drawn(seed: int) -> None:
    record = valid(body(seed=seed))
    found = record_seed(record, 0)
    assert found == record_seed(record, 1) == record_seed(valid({"id": "b", "prompt": "y", "seed": seed}), 2)
    assert (seed - found) % (2**32 - 1) == 0
    assert 0 <= found < 2**32 - 1  # the largest of 32 bits means in llama.cpp that one is drawn
    assert request_body(record, "", found)["seed"] == found


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**63, 1.5, True, "1"])
def test_seed_that_is_no_whole_number_of_64_bits_is_an_error(seed: object) -> None:
    assert isinstance(read_one(body(seed=seed)), InvalidRecord)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        (
            {"tools": TOOLS, "tool_choice": {**NAMED, "function": {"name": "g"}}},
            "no function is named 'g'; available: f",
        ),
        ({"tools": [{"type": "function", "function": {"parameters": {}}}]}, "a function needs a name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]}, "must be a JSON schema"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "less than or equal to 20"),
        ({"logit_bias": {"1": 101}}, "less than or equal to 100"),
        ({"logit_bias": {"one": 1}}, "body.logit_bias.one"),
        ({"logit_bias": {"-1": 1}}, "body.logit_bias.-1"),
        ({"frobnicate": 1}, "unknown key 'body.frobnicate'"),
    ],
)
def test_field_that_cannot_be_obeyed_fails_its_record_with_the_reason(given: dict[str, Any], words: str) -> None:
    bad = read_one(body(**given))
    assert isinstance(bad, InvalidRecord)
    assert words in bad.reason
    assert bad.id == "a"


def test_fingerprint_of_a_record_is_that_of_earlier_releases_unless_it_asks_for_more() -> None:
    usual = valid({"id": "a", "prompt": "x"})
    assert record_fingerprint(usual, 0, {"model": "m"}) == "1b464e77adf7c7b9295d4e179cf26e20"
    assert (
        record_fingerprint(valid({"id": "a", "prompt": "x", "n": 2}), 0, {"model": "m"})
        != "1b464e77adf7c7b9295d4e179cf26e20"
    )
    assert RequestForm().given_params()["answers"] is None
