"""Convert and check the arguments of a call by the JSON schema of its function.

Qwen's call format has no types: every argument is text. A schema and the text come in; a typed value goes out, or a
sentence for the model about what is wrong with its call. Nested values are left to the function to check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from qwenctl.protocol.messages import ToolCall, Tools
from qwenctl.terminal.sanitize import replace_surrogates

Schema = Mapping[str, Any]
_JSON_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_PYTHON_WORDS = {"True": True, "False": False, "None": None}  # as the chat template of Qwen3.5 writes them
_OPEN_SCHEMA = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties")  # may declare parameters elsewhere
_MAX_DEPTH = 64
_MAX_CHOICE_DEPTH = 8


def find_parameters(tools: Tools, name: str) -> Schema | None:
    """Return the schema of the parameters of the function `name`, empty if it is none; None without such a function."""
    functions = (tool["function"] for tool in tools)
    for function in functions:
        if function["name"] == name:
            parameters = function.get("parameters")
            return parameters if isinstance(parameters, Mapping) else {}
    return None


def declares_parameter(parameters: Schema, name: str) -> bool:
    """Whether a function with the schema `parameters` has the parameter `name`, or may have any."""
    properties = parameters.get("properties")
    if not isinstance(properties, Mapping) or any(word in parameters for word in _OPEN_SCHEMA):
        return True
    return name in properties or parameters.get("additionalProperties", False) is not False


def coerce_argument(text: str, name: str, parameters: Schema) -> Any:
    """Convert `text`, the argument `name`, to a type that its schema allows; return it as it is if that fails."""
    kinds = allowed_types(_argument_schema(name, parameters), parameters)
    if kinds == {"string"}:
        return text
    try:
        value = parse_json(text)
    except ValueError:
        word = text.strip()
        value = _PYTHON_WORDS.get(word, text)
        return value if value is text or _has_type(value, kinds) else text
    # Quoted text keeps its quotes: the format does not quote strings, so they belong to the value. A value of a wrong
    # type is converted unless a string is allowed, so that `validate_call` can name its type.
    if isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds:
        return int(value)
    return value if not isinstance(value, str) and (_has_type(value, kinds) or "string" not in kinds) else text


def _argument_schema(name: str, parameters: Schema) -> Any:
    """The schema of the argument `name`: its own, or that of all additional ones."""
    properties = parameters.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    return parameters.get("additionalProperties", {})


def validate_call(call: ToolCall, tools: Tools) -> str:
    """Return what is wrong with `call`, as a sentence for the model; an empty string if it can be run."""
    parameters = find_parameters(tools, call.name)
    if parameters is None:
        return f"no function is named {call.name!r}; available: {', '.join(tool['function']['name'] for tool in tools)}"
    properties, required = parameters.get("properties", {}), parameters.get("required", ())
    for name in required if isinstance(required, list | tuple) else ():
        if isinstance(name, str) and name not in call.arguments:
            return f"{call.name} needs the parameter {name!r}"
    for name, value in call.arguments.items():
        if not declares_parameter(parameters, name):
            return f"{call.name} has no parameter {name!r}; it has: {', '.join(properties) or 'none'}"
        schema = _argument_schema(name, parameters)
        kinds = allowed_types(schema, parameters)
        if not _has_type(value, kinds):
            return f"{name!r} of {call.name} must be of type {' or '.join(sorted(kinds))}, not {_format_value(value)}"
        allowed = _allowed_values(schema, parameters)
        if allowed is not None and not any(_equal(value, one) for one in allowed):
            return f"{name!r} of {call.name} must be one of {json.dumps(allowed)}, not {_format_value(value)}"
    return ""


def parse_json(text: str) -> Any:
    """Parse JSON that is safe to pass on: finite numbers, no lone surrogates, at most 64 levels of nesting.

    Lone surrogates are replaced; raises ValueError for the rest.
    """
    try:
        return _check_value(json.loads(text), _MAX_DEPTH)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _check_value(value: Any, levels: int) -> Any:
    """Return `value` without lone surrogates. Raises ValueError for non-finite numbers and too many `levels`."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    if isinstance(value, dict | list) and not levels:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {replace_surrogates(key): _check_value(inner, levels - 1) for key, inner in value.items()}
    return [_check_value(inner, levels - 1) for inner in value] if isinstance(value, list) else value


def allowed_types(schema: Any, root: Schema, levels: int = _MAX_CHOICE_DEPTH) -> frozenset[str]:
    """Return the JSON types that `schema` allows; all of them if it does not restrict the type."""
    schema = resolve_ref(schema, root)
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return frozenset(name for name in named if isinstance(name, str)) & _JSON_TYPES or _JSON_TYPES
    if "const" in schema or isinstance(schema.get("enum"), list):
        return frozenset(_json_type(value) for value in schema.get("enum", [schema.get("const")]))
    choices: list[Any] = next(
        (schema[word] for word in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(word), list)), []
    )
    if not levels:
        return _JSON_TYPES
    return frozenset(kind for choice in choices for kind in allowed_types(choice, root, levels - 1)) or _JSON_TYPES


def _allowed_values(schema: Any, root: Schema, levels: int = _MAX_CHOICE_DEPTH) -> list[Any] | None:
    """The values that `schema` lists, other than those of nested values; None if it allows others too."""
    schema = resolve_ref(schema, root)
    listed: list[Any] | None = None
    if isinstance(schema.get("enum"), list):
        listed = schema["enum"]
    elif "const" in schema:
        listed = [schema["const"]]
    elif schema.get("type") == "null":
        listed = [None]
    for word in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(word)
        if not levels or not isinstance(choices, list):
            continue
        lists = [_allowed_values(choice, root, levels - 1) for choice in choices]
        if word != "allOf" and all(one is not None for one in lists):
            lists = [[value for one in lists for value in one or ()]]
        elif word != "allOf":
            continue
        for one in lists:
            if one is not None:
                listed = one if listed is None else [value for value in listed if any(_equal(value, it) for it in one)]
    return listed


def _equal(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def resolve_ref(schema: Any, root: Schema) -> Schema:
    """Return `schema`, or the target of its `$ref` within `root` (RFC 6901); an empty schema if there is none."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" not in schema:
            return schema
        target: Any = root
        for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        schema = target
    return {}


def _json_type(value: Any) -> str:
    """Return the name of the JSON type of `value`; a float without a fraction is an integer, as in JSON schema."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case None:
            return "null"
    return "array" if isinstance(value, list) else "object"


def _has_type(value: Any, kinds: frozenset[str]) -> bool:
    """Whether the JSON type of `value` is among `kinds`; an integer also counts as a number."""
    kind = _json_type(value)
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _format_value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
