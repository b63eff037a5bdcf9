"""The two JSON formats of a record: qwenctl's own, and that of OpenAI's batch API.

A parsed object comes in, a `Record` goes out; an error names the column of the bad value. Values have the same limits
as on the command line.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from qwenctl.batch.input.idle_fields import is_foreign
from qwenctl.batch.input.message_schema import PART_TYPES, MessageForm, to_messages
from qwenctl.batch.input.request_schema import RequestForm
from qwenctl.batch.input.strict_json import BadLine, StrictModel, find_column
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.protocol.messages import Message

# A key as near as this to a known one is a mistake; any other is a field of the user's.
_MISTAKE = 0.85
# Names of fields of an answer: a field of the user's with such a name goes into its field `record`.
_TAKEN = frozenset(
    "id answer thinking tool_calls finish_reason usage hash logprobs choices custom_id response error record".split()
)


class _QwenctlRecord(RequestForm):
    """A record in qwenctl's own format."""

    id: str | int | None = None
    prompt: str | None = None
    messages: Annotated[list[MessageForm], Field(min_length=1)] | None = None
    system: str | None = None
    think: bool | None = None
    think_budget: Annotated[int, Field(ge=-1)] | None = None
    json_schema: dict[str, Any] | str | None = None
    grammar: str | None = None

    def all_messages(self) -> tuple[Message, ...]:
        """The messages. Raises ValueError unless exactly one of prompt and messages is given."""
        if (self.prompt is None) == (self.messages is None):
            both = self.prompt is not None
            raise ValueError(
                "both prompt and messages: use only one of them" if both else "neither prompt nor messages"
            )
        asked = to_messages(self.messages) if self.messages is not None else (Message("user", self.prompt or ""),)
        if self.system is not None and asked[0].role == "system":
            raise ValueError("both system and a system message: use only one of them")
        return (*((Message("system", self.system),) if self.system else ()), *asked)

    def given_params(self) -> dict[str, Any]:
        """As in other formats; of two fields for the same, qwenctl's wins. Raises ValueError."""
        schema, grammar = self.json_schema, self.grammar
        if isinstance(schema, str) and not schema.strip():
            raise ValueError("json_schema is empty: leave it out, or use null")
        if grammar is not None and not grammar.strip():
            raise ValueError("grammar is empty: leave it out, or use null")
        values = self.chat_template_kwargs
        others = {self.enable_thinking, values.enable_thinking if values is not None else None}
        if self.think is not None and not others <= {None, self.think}:
            raise ValueError("think and enable_thinking contradict each other")
        own = {
            "think": self.think,
            "think_budget": self.think_budget,
            "json_schema": json.dumps(schema) if isinstance(schema, dict) else schema,
            "grammar": grammar,
        }
        return {**super().given_params(), **{name: value for name, value in own.items() if value is not None}}


class _Body(RequestForm):
    """The body of an OpenAI chat completion request."""

    messages: Annotated[list[MessageForm], Field(min_length=1)]
    model: str | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    verbosity: Literal["medium"] | None = None


class _OpenAI(StrictModel):
    custom_id: str | int | None = None
    method: Literal["POST"] = "POST"
    url: Literal["/v1/chat/completions", "/chat/completions"] = "/v1/chat/completions"
    body: _Body


def parse_record(
    fields: Mapping[str, Any],
    text: str,
    line: int,
    params: GenerationParams,
    passthrough: Sequence[str],
    make_up_name: Callable[[], str],
) -> Record:
    """The record on line `line`: `fields` are the parsed `text`, `params` the defaults for what it leaves out.

    Fields that no format knows, and those named in `passthrough`, are copied to the answer and may have any value.
    `make_up_name` is called for a record without a name. Raises BadLine.
    """
    is_openai = "custom_id" in fields or "body" in fields
    form: type[StrictModel] = _OpenAI if is_openai else _QwenctlRecord
    own = {name: value for name, value in fields.items() if name in list(form.model_fields)}
    extra = {name: value for name, value in fields.items() if name not in own}
    for name in extra:
        near = difflib.get_close_matches(name, list(form.model_fields), n=1, cutoff=_MISTAKE)
        if near and name not in passthrough:
            raise BadLine(find_column(text, (name,)), f"unknown key {name[:60]!r}: did you mean {near[0]!r}?")
        if is_foreign(name, fields[name]) and name not in passthrough:
            raise BadLine(find_column(text, (name,)), f"{name} is not supported")
    copied = [name for name in fields if name in extra or name in passthrough]
    carried = _carried(fields, copied) if copied else {}
    try:
        asked: RequestForm
        if is_openai:
            if is_nameless(fields.get("custom_id")) and not is_nameless(fields.get("id")):
                own["custom_id"] = fields["id"]
            openai = _OpenAI.model_validate(own)
            messages, asked, given = to_messages(openai.body.messages), openai.body, openai.custom_id
        else:
            short = _QwenctlRecord.model_validate(own)
            messages, asked, given = short.all_messages(), short, short.id
        # Nothing to answer: the last message is the user's and empty, or all are.
        spoken = [one for one in messages if one.role != "system"]
        last = spoken[-1:] if spoken and spoken[-1].role == "user" else messages
        texts = [text for one in last for text in (one.content, one.thinking)]
        # Not strip(), which would copy a long text.
        if all(not text or text.isspace() for text in texts) and not any(one.media or one.tool_calls for one in last):
            raise ValueError("the prompt is empty")
        merged = _merge_params(params, asked.sampling(), asked.given_params())
    except ValidationError as error:
        raise _bad_line(error, text, fields) from error
    except ValueError as error:
        raise BadLine(1, str(error)) from error
    return Record(make_up_name() if is_nameless(given) else str(given), line, messages, merged, carried)


def is_nameless(given: object) -> bool:
    """Whether a value of a record's field for its name is none: null, or an empty string."""
    return given is None or given == ""


def checked_name(given: object) -> str | None:
    """The name that a record was given: a string, or a whole number as its digits; None if it has none.

    Raises BadLine for any other value.
    """
    if is_nameless(given):
        return None
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise BadLine(1, "id: input should be a string or a whole number")
    return str(given)


def _carried(fields: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The fields to copy to the answer; those whose names an answer has itself are together in `record`."""
    carried = {name: fields[name] for name in names if name not in _TAKEN}
    taken = {name: fields[name] for name in names if name in _TAKEN}
    return {**carried, "record": taken} if taken else carried


def _merge_params(
    params: GenerationParams, sampling: Mapping[str, float | int], named: Mapping[str, Any]
) -> GenerationParams:
    """The defaults with what a record names. Raises ValueError."""
    given = {name: value for name, value in named.items() if value is not None}
    if given.get("json_schema") or given.get("grammar"):  # it replaces the batch's schema or grammar, whichever it is
        given = {"json_schema": "", "grammar": "", **given}
    if "template_variables" in given:
        given["template_variables"] = {**params.template_variables, **given["template_variables"]}
    merged: GenerationParams = replace(params, sampling={**params.sampling, **sampling}, **given)
    if merged.tools and (merged.json_schema or merged.grammar):
        raise ValueError("tools and a JSON schema or grammar cannot be used together")
    names = [tool["function"].get("name") for tool in merged.tools]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("a function in tools has no name")
    if len(set(names)) < len(names):
        raise ValueError("two functions in tools have the same name")
    return merged


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
    return isinstance(step, str) and (step in ("str", "int", "_NamedTool") or "[" in step)


def _is_tag(before: str | int, step: str | int) -> bool:
    """Whether a step is not a key, but the tag of a message part (a discriminated union)."""
    return isinstance(before, int) and step in PART_TYPES


def _valid_keys(path: Sequence[str | int]) -> list[str]:
    """The valid keys of the object that has an unknown one."""
    inside = {(): _QwenctlRecord, ("body",): _Body, ("messages",): MessageForm, ("body", "messages"): MessageForm}
    names = tuple(str(step) for step in path[:-1] if isinstance(step, str))
    form: Any = inside.get(names, _QwenctlRecord)
    return list(form.model_fields)
