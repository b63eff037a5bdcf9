"""JSON as a batch takes it: one object a line, strict, and each mistake with its column.

A line of bytes comes in, an object goes out. What Python's parser lets pass and JSON does not know is refused: NaN,
names that occur twice, lone surrogates, bytes that are not UTF-8. Columns count characters, from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from json.decoder import JSONDecodeError
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_LARGEST_DEPTH = 100
_DECODER = json.JSONDecoder()


class BadLine(Exception):
    """A line that is not what it should be: at `column`, because of the text."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def parse_object(data: bytes) -> tuple[dict[str, Any], str]:
    """The object on a line, and the line as text. Raises BadLine."""
    text = decoded(data)
    _check_depth(text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except JSONDecodeError as error:
        raise BadLine(error.colno, f"invalid JSON ({_lower(error.msg)})") from error
    except _Twice as error:
        raise BadLine(_column_of_second(text, str(error)), f"duplicate key {str(error)[:60]!r}") from error
    except _Constant as error:
        raise BadLine(text.find(str(error)) + 1, f"invalid JSON ({error} is not a number)") from error
    except (ValueError, RecursionError) as error:
        raise BadLine(1, "a number has too many digits") from error
    if not isinstance(value, dict):
        raise BadLine(1, f"a record is an object {{…}}, not {_kind(value)}")
    _check_surrogates(text, value)
    return value, text


def decoded(data: bytes) -> str:
    """Bytes as text. Raises BadLine for what is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        column = len(data[: error.start].decode("utf-8", "replace")) + 1
        raise BadLine(column, f"byte {data[error.start]:#04x} is not UTF-8") from error


def find_column(text: str, path: Sequence[str | int]) -> int:
    """The column at which the value at `path` stands in the JSON `text`; of what holds it, if it is not there."""
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]  # it matches nothing at least
    for step in path:
        found = _member(text, at, step)
        if found is None:
            break
        at = found
    return at + 1


class _Twice(Exception):
    """A name that occurs twice in an object."""


class _Constant(Exception):
    """NaN or an infinity."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Constant(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


def _column_of_second(text: str, key: str) -> int:
    places = [match.start() for match in re.finditer(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:", text)]
    return places[1] + 1 if len(places) > 1 else 1


def _check_depth(text: str) -> None:
    """Python's parser ends at some depth with what the machine's stack allows; here it is always the same."""
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', text):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
        if depth > _LARGEST_DEPTH:
            raise BadLine(match.start() + 1, f"more than {_LARGEST_DEPTH} levels of brackets")


def _check_surrogates(text: str, value: object) -> None:
    """Half a character, written as an escape, can be parsed but not encoded."""
    escape = _ESCAPED.search(text)
    if escape is not None and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise BadLine(escape.start() + 1, f"{escape[0]} is half a character")


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a list: `jq -c '.[]'` makes lines of it"
    return {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _member(text: str, at: int, step: str | int) -> int | None:
    """Where the value of one member of the object or list at `at` begins."""
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
