"""The two JSON formats of a record: qwenctl's own, and that of OpenAI's batch API.

A parsed object comes in, a `Record` goes out; an error names the column of the bad value. Values have the same limits
as on the command line.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from qwenctl.batch.input.message_schema import PART_TYPES, MessageForm, StrictModel
from qwenctl.batch.input.strict_json import BadLine, find_column
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.models.sampling import SAMPLING_OPTIONS
from qwenctl.protocol.messages import Message

_SAMPLING = tuple(option.field for option in SAMPLING_OPTIONS.values())


def _ranged(field: str) -> Any:
    """The limits of a sampling parameter: those of its command-line option, but no negative seed."""
    option = next(option for option in SAMPLING_OPTIONS.values() if option.field == field)
    return Field(
        ge=max(option.minimum, 0) if field == "seed" else option.minimum, le=option.maximum, allow_inf_nan=False
    )


class _Sampled(StrictModel):
    """The sampling parameters, with llama.cpp's names."""

    temperature: Annotated[float, _ranged("temperature")] | None = None
    top_k: Annotated[int, _ranged("top_k")] | None = None
    top_p: Annotated[float, _ranged("top_p")] | None = None
    min_p: Annotated[float, _ranged("min_p")] | None = None
    presence_penalty: Annotated[float, _ranged("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _ranged("frequency_penalty")] | None = None
    repeat_penalty: Annotated[float, _ranged("repeat_penalty")] | None = None
    repeat_last_n: Annotated[int, _ranged("repeat_last_n")] | None = None
    seed: Annotated[int, _ranged("seed")] | None = None

    def sampling(self) -> dict[str, float | int]:
        """The parameters that the record has, by field name."""
        given = {name: getattr(self, name) for name in _SAMPLING}
        return {name: value for name, value in given.items() if value is not None}


class _Tool(StrictModel):
    type: Literal["function"]
    function: dict[str, Any]


class _QwenctlRecord(_Sampled):
    """A record in qwenctl's own format."""

    id: str | int | None = None
    prompt: str | None = None
    messages: Annotated[list[MessageForm], Field(min_length=1)] | None = None
    system: str | None = None
    think: bool | None = None
    think_budget: Annotated[int, Field(ge=-1)] | None = None
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    json_schema: dict[str, Any] | str | None = None
    grammar: str | None = None
    tools: list[_Tool] | None = None


class _NamedSchema(StrictModel):
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class _Format(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None

    def text(self) -> str:
        """The JSON schema that it stands for; "" for plain text."""
        if self.json_schema is not None:
            return json.dumps(self.json_schema.schema_)
        return '{"type": "object"}' if self.type == "json_object" else ""


class _TemplateValues(StrictModel):
    enable_thinking: bool | None = None


class _Body(_Sampled):
    """The body of an OpenAI chat completion request."""

    messages: Annotated[list[MessageForm], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=-1)] | None = None
    response_format: _Format | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    chat_template_kwargs: _TemplateValues | None = None
    n: Literal[1] | None = None
    stream: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None


class _OpenAI(StrictModel):
    custom_id: Annotated[str, Field(min_length=1)]
    method: Literal["POST"] = "POST"
    url: Literal["/v1/chat/completions", "/chat/completions"] = "/v1/chat/completions"
    body: _Body


def parse_record(
    fields: Mapping[str, Any], text: str, line: int, params: GenerationParams, passthrough: Sequence[str]
) -> Record:
    """The record on line `line`: `fields` are the parsed `text`, `params` the defaults for what it leaves out.

    Fields named in `passthrough` are copied to the answer and may have any name and value. Raises BadLine.
    """
    carried = {name: fields[name] for name in passthrough if name in fields}
    known = {
        name: value for name, value in fields.items() if name not in carried or name in _QwenctlRecord.model_fields
    }
    try:
        if "custom_id" in fields or "body" in fields:
            openai = _OpenAI.model_validate({name: value for name, value in fields.items() if name not in carried})
            return Record(
                openai.custom_id, line, _messages(openai.body.messages), _openai_params(openai.body, params), carried
            )
        short = _QwenctlRecord.model_validate(known)
    except ValidationError as error:
        raise _bad_line(error, text, fields) from error
    except ValueError as error:
        raise BadLine(1, str(error)) from error
    try:
        return Record(record_id(short.id, line), line, _record_messages(short), _qwenctl_params(short, params), carried)
    except ValueError as error:
        raise BadLine(1, str(error)) from error


def record_id(given: object, line: int) -> str:
    """The id of a record; without one, the number of its line."""
    return str(given) if isinstance(given, str | int) and str(given) else str(line)


def _record_messages(short: _QwenctlRecord) -> tuple[Message, ...]:
    """The messages. Raises ValueError unless exactly one of prompt and messages is given."""
    if (short.prompt is None) == (short.messages is None):
        both = short.prompt is not None
        raise ValueError("both prompt and messages: use only one of them" if both else "neither prompt nor messages")
    asked = _messages(short.messages) if short.messages is not None else (Message("user", short.prompt or ""),)
    if short.system is not None and asked[0].role == "system":
        raise ValueError("both system and a system message: use only one of them")
    return (*((Message("system", short.system),) if short.system else ()), *asked)


def _messages(given: Sequence[MessageForm]) -> tuple[Message, ...]:
    return tuple(one.message() for one in given)


def _qwenctl_params(short: _QwenctlRecord, params: GenerationParams) -> GenerationParams:
    schema = short.json_schema
    return _merge_params(
        params,
        short.sampling(),
        think=short.think,
        think_budget=short.think_budget,
        max_tokens=short.max_tokens,
        json_schema=json.dumps(schema) if isinstance(schema, dict) else schema,
        grammar=short.grammar,
        tools=_tools(short.tools),
    )


def _openai_params(body: _Body, params: GenerationParams) -> GenerationParams:
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    thinks = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs is not None else None
    return _merge_params(
        params,
        body.sampling(),
        think=thinks,
        max_tokens=most,
        json_schema=body.response_format.text() if body.response_format is not None else None,
        tools=() if body.tool_choice == "none" else _tools(body.tools),
    )


def _merge_params(params: GenerationParams, sampling: Mapping[str, float | int], **given: Any) -> GenerationParams:
    own = {name: value for name, value in given.items() if value is not None}
    if own.get("json_schema") or own.get("grammar"):  # it replaces the batch's schema or grammar, whichever there is
        own = {"json_schema": "", "grammar": "", **own}
    merged: GenerationParams = replace(params, sampling={**params.sampling, **sampling}, **own)
    if merged.tools and (merged.json_schema or merged.grammar):
        raise ValueError("tools and a JSON schema or grammar cannot be used together")
    return merged


def _tools(given: list[_Tool] | None) -> tuple[dict[str, Any], ...] | None:
    return tuple(tool.model_dump() for tool in given) if given is not None else None


def _bad_line(error: ValidationError, text: str, fields: Mapping[str, Any]) -> BadLine:
    """The first error, with its column."""
    errors = error.errors(include_url=False, include_context=False)
    first = errors[0]
    if _is_union_step(first["loc"][-1]):  # for a union, report the alternative that matched furthest
        beside = first["loc"][:-1]
        first = max((one for one in errors if one["loc"][: len(beside)] == beside), key=lambda one: len(one["loc"]))
    steps = pairwise(("", *first["loc"]))
    path = tuple(step for before, step in steps if not (_is_union_step(step) or _is_tag(before, step)))
    kind, message = first["type"], first["msg"]
    where = ".".join(map(str, path))
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), _valid_keys(path), n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        return BadLine(find_column(text, path), f"unknown key {where[:60]!r}{hint}")
    if kind == "missing":
        return BadLine(find_column(text, path[:-1]), f"no {'.'.join(map(str, path))}")
    return BadLine(find_column(text, path), f"{where}: {message[:1].lower()}{message[1:]}")


def _is_union_step(step: str | int) -> bool:
    """Whether a step of a pydantic error path is not a key, but an alternative of a union type."""
    return isinstance(step, str) and (step in ("str", "int") or "[" in step)


def _is_tag(before: str | int, step: str | int) -> bool:
    """Whether a step is not a key, but the tag of a message part (a discriminated union)."""
    return isinstance(before, int) and step in PART_TYPES


def _valid_keys(path: Sequence[str | int]) -> list[str]:
    """The valid keys of the object that has an unknown one."""
    inside = {(): _QwenctlRecord, ("body",): _Body, ("messages",): MessageForm, ("body", "messages"): MessageForm}
    names = tuple(str(step) for step in path[:-1] if isinstance(step, str))
    form: Any = inside.get(names, _QwenctlRecord)
    return list(form.model_fields)
