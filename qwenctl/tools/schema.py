"""What the JSON schema of a function says of its parameters, as far as a call of Qwen's form needs it.

The form has no types: every value is text. A schema and that text come in, a value goes out, or a sentence for the
model on what is wrong with its call. Nested values are not checked: who runs the function does that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from qwenctl.protocol.messages import ToolCall, Tools
from qwenctl.terminal.sanitize import replace_surrogates

Schema = Mapping[str, Any]
_KINDS = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
_PYTHON_WORDS = {"True": True, "False": False, "None": None}  # as the template of Qwen3.5 writes them
_DEEPEST = 64
_DEEPEST_CHOICE = 8


def parameters_of(tools: Tools, name: str) -> Schema | None:
    """The schema of the parameters of the function `name`; None if there is no such function."""
    functions = (tool["function"] for tool in tools)
    return next((one.get("parameters", {}) for one in functions if one["name"] == name), None)


def coerce_argument(text: str, name: str, parameters: Schema) -> Any:
    """The value that the model means by `text` for the parameter `name`: what its schema allows, else the text."""
    kinds = _kinds(parameters.get("properties", {}).get(name, {}), parameters)
    if kinds == {"string"}:
        return text
    try:
        value = parse_json(text)
    except ValueError:
        word = text.strip()
        value = _PYTHON_WORDS.get(word, text)
        return value if value is text or _is_of(value, kinds) else text
    return value if not isinstance(value, str) and (_is_of(value, kinds) or "string" not in kinds) else text


def validate_call(call: ToolCall, tools: Tools) -> str:
    """What is wrong with `call`, as a sentence for the model; nothing if it can be run."""
    parameters = parameters_of(tools, call.name)
    if parameters is None:
        return f"no function is named {call.name!r}; available: {', '.join(tool['function']['name'] for tool in tools)}"
    properties = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in call.arguments:
            return f"{call.name} needs the parameter {name!r}"
    for name, value in call.arguments.items():
        if name not in properties:
            if parameters.get("additionalProperties") is False:
                return f"{call.name} has no parameter {name!r}; it has: {', '.join(properties) or 'none'}"
            continue
        kinds = _kinds(properties[name], parameters)
        if not _is_of(value, kinds):
            return f"{name!r} of {call.name} must be of type {' or '.join(sorted(kinds))}, not {_short(value)}"
        allowed = _resolved(properties[name], parameters).get("enum")
        if isinstance(allowed, list) and value not in allowed:
            return f"{name!r} of {call.name} must be one of {json.dumps(allowed)}, not {_short(value)}"
    return ""


def parse_json(text: str) -> Any:
    """The value of a JSON text that other programs can read too: finite numbers, whole Unicode, at most 64 levels deep.

    Raises ValueError for anything else.
    """
    try:
        return _plain(json.loads(text), _DEEPEST)
    except RecursionError as error:
        raise ValueError("too deep") from error


def _plain(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    if isinstance(value, dict | list) and not levels:
        raise ValueError("too deep")
    if isinstance(value, dict):
        return {replace_surrogates(key): _plain(inner, levels - 1) for key, inner in value.items()}
    return [_plain(inner, levels - 1) for inner in value] if isinstance(value, list) else value


def _kinds(schema: Any, root: Schema, levels: int = _DEEPEST_CHOICE) -> frozenset[str]:
    """The names of the types that a value of `schema` may have; all of them where it does not say."""
    schema = _resolved(schema, root)
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return frozenset(name for name in named if isinstance(name, str)) & _KINDS or _KINDS
    if "const" in schema or isinstance(schema.get("enum"), list):
        return frozenset(_kind(value) for value in schema.get("enum", [schema.get("const")]))
    choices: list[Any] = next(
        (schema[word] for word in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(word), list)), []
    )
    if not levels:
        return _KINDS
    return frozenset(kind for one in choices for kind in _kinds(one, root, levels - 1)) or _KINDS


def _resolved(schema: Any, root: Schema) -> Schema:
    """`schema`, or what its `$ref` leads to within `root`; the empty schema if it leads nowhere."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" not in schema:
            return schema
        found: Any = root
        for step in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        schema = found
    return {}


def _kind(value: Any) -> str:
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


def _is_of(value: Any, kinds: frozenset[str]) -> bool:
    kind = _kind(value)
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
