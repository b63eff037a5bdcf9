"""Strict JSON lines: one object per line, and every error with its column.

A line of bytes comes in, an object goes out. What Python's parser accepts although it is no interoperable JSON is
refused: NaN, duplicate keys, lone surrogates, bytes that are not UTF-8. Columns count characters, from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from json.decoder import JSONDecodeError
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, model_validator

from qwenctl.batch.input.idle_fields import asks_for_nothing

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
# Possessive: no place to return to is remembered for each character of a string, which took 120 bytes for one.
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|[\[{]++|[\]}]++', re.DOTALL)
_MAX_DEPTH = 100
_NESTED = (dict, list)
_DECODER = json.JSONDecoder()


class StrictModel(BaseModel):
    """A schema that refuses unknown keys and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_idle_fields(cls, given: Any) -> Any:
        """Drop unknown fields that ask for nothing, as OpenAI's own objects have them."""
        if not isinstance(given, dict):
            return given
        known = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
        return {name: value for name, value in given.items() if name in known or not asks_for_nothing(name, value)}


class BadLine(Exception):
    """A line that is not valid: at `column`, counted in characters from 1; the text says why.

    `name` is the record's own name, if that much of it can be read.
    """

    name: str | None = None

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def parse_object(data: bytes) -> tuple[dict[str, Any], str]:
    """The object on a line, and the line as text. Raises BadLine if it is not one."""
    text = decode_utf8(data)
    try:
        value = _parse(text)
    except JSONDecodeError as error:
        raise BadLine(error.colno, f"invalid JSON ({_lower(error.msg)})") from error
    except _DuplicateKey as error:
        raise BadLine(_column_of_second(text, str(error)), f"duplicate key {str(error)[:60]!r}") from error
    except _Constant as error:
        raise BadLine(text.find(str(error)) + 1, f"invalid JSON ({error} is not a number)") from error
    except ValueError as error:
        raise BadLine(1, "a number has too many digits") from error
    if not isinstance(value, dict):
        raise BadLine(1, f"a record is an object {{…}}, not {_describe_type(value)}")
    # Half of a surrogate pair, written as an escape, can be parsed, but not encoded as UTF-8.
    escape = _ESCAPED.search(text)
    if escape is not None and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise BadLine(escape.start() + 1, f"{escape[0]} is half of a surrogate pair")
    return value, text


def _parse(text: str) -> Any:
    """The value of a JSON text. Raises BadLine if it is nested too deeply, else what Python's parser raises.

    Lists and objects are looked at level by level.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError, _DuplicateKey, _Constant) as error:
        _check_depth(text)
        if isinstance(error, RecursionError):  # the stack was nearly used up before
            raise BadLine(1, f"more than {_MAX_DEPTH} levels of brackets") from error
        raise
    level = [value] if type(value) in _NESTED else []
    for _ in range(_MAX_DEPTH):
        if not level:
            return value
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if type(inner) in _NESTED
        ]
    if level:
        _check_depth(text)
    return value


def decode_utf8(data: bytes) -> str:
    """Bytes as text. Raises BadLine if they are not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(data[: error.start].decode("utf-8", "replace")) + 1
        raise BadLine(column, f"byte {data[error.start]:#04x} is not UTF-8") from error


def find_column(text: str, path: Sequence[str | int]) -> int:
    """The column of the value at `path` in the JSON `text`, or of the innermost container if there is no such value."""
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]  # the pattern matches the empty string, so there is always a match
    for step in path:
        found = _find_member(text, at, step)
        if found is None:
            break
        at = found
    return at + 1


class _DuplicateKey(Exception):
    """A duplicate key in an object."""


class _Constant(Exception):
    """NaN or an infinity."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKey(key)
        found[key] = value
    return found


def _column_of_second(text: str, key: str) -> int:
    places = [match.start() for match in re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text)]
    return places[1] + 1 if len(places) > 1 else 1


def _check_depth(text: str) -> None:
    """Raise BadLine at the first bracket that is too deep: how deep Python's parser can go depends on the machine.

    It takes several times as long as parsing, so it is done only where something is wrong.
    """
    depth = 0
    for match in _BRACKETS.finditer(text):
        first, count = text[match.start()], match.end() - match.start()
        if first in "[{":
            depth += count
            if depth > _MAX_DEPTH:
                column = match.end() - (depth - _MAX_DEPTH) + 1
                raise BadLine(column, f"more than {_MAX_DEPTH} levels of brackets")
        elif first in "]}":
            depth -= count


def _describe_type(value: object) -> str:
    if isinstance(value, list):
        return "a list: `jq -c '.[]'` splits it into lines"
    return {str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _find_member(text: str, at: int, step: str | int) -> int | None:
    """The offset of the value of one member (key or index) of the object or list at `at`; None if there is none."""
    opening = text[at : at + 1]
    if opening not in ("{", "["):
        return None
    at, number = _skip(text, at + 1), 0
    while text[at : at + 1] not in ("}", "]", ""):
        name: str | int = number
        if opening == "{":
            name, end = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, end) + 1)
        if name == step:
            return at
        _, at = _DECODER.raw_decode(text, at)
        at, number = _skip(text, at), number + 1
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    return None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
