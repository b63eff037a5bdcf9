"""Writes the grammar that makes a model call functions: at once, one of them, or one at most.

Functions and a choice come in, a grammar in llguidance's Lark goes out, for the answer after the thinking. What follows
it is read by `call_format` without doubt, and its arguments have the types of their schemas: a text has no tag in it,
and everything else is JSON. Parameters come in the order of the schema. How a grammar is obeyed is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.protocol.messages import Tools
from qwenctl.tools.schema import Schema, allowed_types, coerce_argument, resolve_ref

# The tags of the format, as `call_format` reads them: no text of an argument contains one.
_TAG = r"<(\/?tool_call>|\/(function|parameter)>|(function|parameter)=)"
_HEADER = rf"""%llguidance {{}}
TEXT: /(?s:.*)/ & ~/(?s:.*{_TAG}.*)/
PLAIN: TEXT & /([^-0-9\[\{{" \t\r\n](?s:.*))?/
INTEGER: /-?(0|[1-9][0-9]{{0,17}})/
NUMBER: /-?(0|[1-9][0-9]{{0,14}})(\.[0-9]{{1,15}})?([eE][-+]?[0-9]{{1,2}})?/
CONTENT: /(?s:.+)/
"""
_WRITABLE = re.compile(r"[^\s<>](?:[^<>\n]{0,200}[^\s<>])?")  # a name as a tag can have it
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_GUIDANCE = {"whitespace_pattern": r"[ \n\t]{0,20}"}  # any amount lets a model loop on it
_SCALARS = {
    "integer": "INTEGER",
    "number": "NUMBER",
    "boolean": '"true" | "false" | "True" | "False"',  # the latter as chat templates write them
    "null": '"null" | "None"',
}
_ANY_TEXT = ("TEXT", "(TEXT")
_CLOSING = r'"\n</parameter>\n"'
_MAX_MERGED = 8  # levels of `allOf`


@dataclass(frozen=True)
class ToolChoice:
    """Whether a function must be called: any (`is_required`), the one called `name`, or none unless the model likes to.

    Without `allows_parallel` there is one call at most; a function that was named is called once in any case.
    """

    is_required: bool = False
    name: str = ""
    allows_parallel: bool = True


@dataclass(frozen=True)
class _Value:
    """The expressions for a value: regular ones, and JSON with a grammar of its own."""

    texts: Sequence[str] = ()
    structures: Sequence[str] = ()


def call_grammar(tools: Tools, choice: ToolChoice) -> str:
    """The grammar of an answer with calls of `tools` as `choice` wants them; "" if it leaves them to the model.

    Raises ValueError with the reason if a call cannot be written.
    """
    if not tools or choice == ToolChoice():
        return ""
    functions = [tool["function"] for tool in tools if choice.name in ("", tool["function"]["name"])]
    rules = [rule for number, function in enumerate(functions) for rule in _function_rules(f"f{number}", function)]
    names = " | ".join(f"f{number}" for number in range(len(functions)))
    if choice.name or (choice.is_required and not choice.allows_parallel):
        start = "call"
    else:
        start = 'call ("\\n" call)*' if choice.is_required else "CONTENT? call?"
    return _HEADER + "\n".join([f"start: {start}", f"call: <tool_call> ({names}) </tool_call>", *rules, ""])


def _function_rules(rule: str, function: Mapping[str, Any]) -> Iterator[str]:
    """The rule for a call of one function, and those of its parameters."""
    name = _writable(function["name"], "function")
    root = function.get("parameters") or {}
    schema = _merged(root, root)
    properties, required = schema.get("properties") or {}, schema.get("required") or ()
    parts = []
    for number, key in enumerate([*properties, *(key for key in required if key not in properties)]):
        if properties.get(key) is False:
            continue
        opening = _quote(f"<parameter={_writable(key, 'parameter')}>\n")
        part, value = f"{rule}p{number}", _value(key, properties.get(key, {}), root)
        if value.structures:
            yield f"{part}: {opening} ({_either(value, part.upper())})"
        if value.texts:
            # Its end is a part of the terminal, which could not tell otherwise where the text ends.
            begin = "" if value.structures else opening
            yield f"{part.upper()}: {begin} ({' | '.join(value.texts)}) {_CLOSING}"
        part = part if value.structures else part.upper()
        parts.append(part if key in required else f"{part}?")
    opening = _quote(f"\n<function={name}>\n")
    yield f'{rule}: {opening} {" ".join(parts)} "</function>\\n"'


def _writable(name: str, what: str) -> str:
    if not _WRITABLE.fullmatch(name):
        raise ValueError(f"the {what} {name[:60]!r} cannot be called: its name cannot be written in a tag")
    return name


def _either(value: _Value, terminal: str) -> str:
    """Structures with the tag after them, or the terminal of the texts if there are any."""
    structures = f"({' | '.join(value.structures)}) {_CLOSING}"
    return f"{terminal} | {structures}" if value.texts else structures


def _value(key: str, given: object, root: Schema) -> _Value:
    """What the value of the parameter `key` may be."""
    schema = _merged(given, root)
    kinds = allowed_types(schema, root)
    branches = [branch for word in ("anyOf", "oneOf") for branch in schema.get(word) or ()]
    if "const" in schema or isinstance(schema.get("enum"), list):
        return _Value(_choices(key, schema, root))
    if "string" not in kinds:
        return _json_value(schema, kinds, root)
    if kinds == {"string"}:
        return _Value([_text(schema)])
    if not branches and "type" not in schema:
        return _Value(["TEXT"])  # anything at all
    if not branches:
        branches = [{**schema, "type": kind} for kind in sorted(kinds)]
    values = [_value(key, branch, root) for branch in branches]
    structures = [one for value in values for one in value.structures]
    texts = [one for value in values for one in value.texts]
    if structures:  # by the first character it must be known which of the two it is
        texts = [one.replace("TEXT", "PLAIN") if one.startswith(_ANY_TEXT) else one for one in texts]
    return _Value(list(dict.fromkeys(texts)), list(dict.fromkeys(structures)))


def _choices(key: str, schema: Schema, root: Schema) -> list[str]:
    """The values of an enumeration, those that can be written and are read as themselves."""
    texts = []
    for value in schema.get("enum", [schema.get("const")]):
        spellings = [value] if isinstance(value, str) else [json.dumps(value, ensure_ascii=False)]
        if value is None or isinstance(value, bool):
            spellings.append(str(value))  # as chat templates write it
        for text in spellings:
            found = coerce_argument(text, key, root)
            if found == value and type(found) is type(value) and not re.search(_TAG, text):
                texts.append(_quote(text))
    if not texts:
        raise ValueError(f"the parameter {key!r} cannot have a value: none of its enum can be written in a call")
    return texts


def _text(schema: Schema) -> str:
    """Text of the length and the pattern that a schema wants."""
    conditions = ["TEXT"]
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    if least or most != "":
        conditions.append(f"/(?s:.{{{least},{most}}})/")
    if "pattern" in schema:
        pattern = re.sub(r"(?<!\\)/", r"\\/", str(schema["pattern"])).replace("\n", r"\n")
        begin, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
        inner = pattern[begin : len(pattern) - end]
        conditions.append(f"/{'' if begin else '(?s:.*)'}({inner}){'' if end else '(?s:.*)'}/")
    return f"({' & '.join(conditions)})"


def _json_value(schema: Schema, kinds: frozenset[str], root: Schema) -> _Value:
    """JSON that follows a schema; numbers without bounds have as many digits as can be read back."""
    if kinds <= _SCALARS.keys() and "type" in schema and not _BOUNDS & schema.keys():
        return _Value([_SCALARS[kind] for kind in sorted(kinds)])
    shared = {word: root[word] for word in ("$defs", "definitions") if word in root}
    return _Value([], [f"%json {json.dumps({**shared, **schema, 'x-guidance': _GUIDANCE})}"])


def _merged(given: object, root: Schema, levels: int = _MAX_MERGED) -> dict[str, Any]:
    """A schema without references and `allOf` at its top."""
    schema = dict(resolve_ref(given, root))
    parts: Sequence[object] = schema.pop("allOf", ()) if isinstance(schema.get("allOf"), list) and levels else ()
    for part in parts:
        schema = {**_merged(part, root, levels - 1), **schema}
    return schema


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
