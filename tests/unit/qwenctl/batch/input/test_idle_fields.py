"""What clients of other servers write into records: defaults are taken, requests are never dropped silently."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.batch.input.idle_fields import asks_for_nothing, is_foreign
from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.records import GenerationParams, InvalidRecord, Record

USER = {"role": "user", "content": "x"}
VLLM = {
    "ignore_eos": False, "min_tokens": 0, "skip_special_tokens": True, "spaces_between_special_tokens": True,
    "add_generation_prompt": True, "length_penalty": 1.0, "use_beam_search": False, "best_of": 1, "priority": 0,
    "top_k": -1, "include_stop_str_in_output": False, "stop_token_ids": [], "truncate_prompt_tokens": None,
    "continue_final_message": False, "add_special_tokens": False, "include_reasoning": True, "detokenize": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
FOREIGN = {
    "min_tokens": 5, "ignore_eos": True, "guided_json": {"type": "object"}, "structured_outputs": {}, "best_of": 2,
    "num_predict": 5, "max_new_tokens": 5, "do_sample": False, "skip_special_tokens": False, "guided_regex": "",
    "extra_body": {"top_k": 1}, "priority": True, "guided_choice": [],
}  # fmt: skip


def read_one(fields: dict[str, Any], **form: Any) -> Record | InvalidRecord:
    [found] = read_items(
        io.BytesIO(json.dumps(fields).encode()), "in", InputFormat("jsonl", GenerationParams(), **form)
    )
    return found


def valid(fields: dict[str, Any], **form: Any) -> Record:
    found = read_one(fields, **form)
    assert isinstance(found, Record), found
    return found


def body(messages: Any = None, **fields: Any) -> dict[str, Any]:
    return {"custom_id": "a", "body": {"messages": messages or [USER], **fields}}


def test_defaults_of_other_servers_change_nothing() -> None:
    assert valid(body(**VLLM)).params == valid(body(top_k=0)).params


@pytest.mark.parametrize(("name", "value"), FOREIGN.items())
def test_request_that_only_another_server_can_do_fails_its_record(name: str, value: object) -> None:
    for fields in (body(**{name: value}), {"id": "a", "prompt": "x", name: value}):
        bad = read_one(fields)
        assert isinstance(bad, InvalidRecord)
        assert name in bad.reason
    assert valid({"id": "a", "prompt": "x", name: value}, passthrough=(name,)).passthrough == {name: value}


@pytest.mark.parametrize("name", ["grammar", "json_schema"])
def test_empty_constraint_that_a_body_does_not_know_is_not_dropped(name: str) -> None:
    for value in ("", {}, []):
        assert isinstance(read_one(body(**{name: value})), InvalidRecord)


@given(st.text(min_size=1), st.sampled_from([None, False, "", [], {}, 0, True, "x", 1]))
def test_null_asks_for_nothing_and_numbers_always_ask(name: str, value: object) -> None:
    assert asks_for_nothing(name, None)
    assert not (is_foreign(name, value) and asks_for_nothing(name, value))


@pytest.mark.parametrize("thinks", [True, False])
def test_enable_thinking_is_obeyed_wherever_it_is(thinks: bool) -> None:
    assert valid(body(enable_thinking=thinks)).params.think is thinks
    assert valid({"prompt": "x", "enable_thinking": thinks}).params.think is thinks
    for other in ({"think": not thinks}, {"chat_template_kwargs": {"enable_thinking": not thinks}}):
        assert isinstance(read_one({"prompt": "x", "enable_thinking": thinks, **other}), InvalidRecord)


CALLS = {"c1": "F", "c2": "G", "c3": "H"}


def with_results(*results: tuple[str | None, str]) -> list[dict[str, Any]]:
    calls = [
        {"id": name, "type": "function", "index": 0, "function": {"name": "f", "arguments": None}} for name in CALLS
    ]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    return [USER, turn, *({"role": "tool", "tool_call_id": name, "content": text} for name, text in results)]


@pytest.mark.parametrize("order", list(itertools.permutations(CALLS.items())))
def test_results_are_in_the_order_of_the_calls_that_they_name(order: Any) -> None:
    messages = valid(body([*with_results(*order), {"role": "user", "content": "y"}])).messages
    assert [message.content for message in messages] == ["x", "", "F", "G", "H", "y"]


def test_results_without_ids_keep_their_order() -> None:
    messages = valid(body(with_results((None, "G"), (None, "F")))).messages
    assert [message.content for message in messages] == ["x", "", "G", "F"]


def test_result_of_no_call_is_an_error() -> None:
    bad = read_one(body(with_results(("c9", "F"))))
    assert isinstance(bad, InvalidRecord)
    assert bad.reason == "tool_call_id 'c9' is that of no call in the message before"


def test_what_gateways_add_to_messages_is_not_seen() -> None:
    cached = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    answer = {"role": "assistant", "content": "C", "provider_specific_fields": {"refusal": None}, "id": "m"}
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning": "why"}
    messages = valid(body([{"role": "user", "content": [cached]}, answer, refused, USER])).messages
    assert [(one.content, one.thinking) for one in messages] == [("x", ""), ("C", ""), ("No.", "why"), ("x", "")]


@pytest.mark.parametrize("functions", [[{}], [{"name": ""}], [{"name": 5}], [{"name": "f"}, {"name": "f"}]])
def test_functions_that_cannot_be_told_apart_are_refused(functions: list[dict[str, Any]]) -> None:
    tools = [{"type": "function", "function": function} for function in functions]
    assert isinstance(read_one(body(tools=tools)), InvalidRecord)
