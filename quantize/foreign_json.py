"""Read JSON that comes from a disk or a network, and may be anything: limits of size and depth, type of the top.

Bytes or a path come in, values go out that the rest of the program can walk through without a limit of its own: nested
at most `MAX_DEPTH` levels deep, and with text that can be encoded. What is in them is not known here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

MAX_DEPTH = 100  # levels of brackets; Python's parser ends at about a thousand, with the stack of the machine
MAX_BYTES = 64 << 20  # of a file; the largest, a tokenizer.json, has 20 MB
_NESTED = (dict, list)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_NAMES: dict[type, str] = {dict: "object", list: "list", str: "string", int: "number", float: "number"}


class BadJSON(ValueError):
    """It is not JSON, or not such JSON as is read here; the text says why."""


def parse_json(data: bytes | str, expected: type[T], max_bytes: int = MAX_BYTES) -> T:
    """Parse JSON whose top is of the type `expected`. Raises BadJSON for anything else, and nothing else."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) > max_bytes:
        raise BadJSON(f"more than {max_bytes:,} bytes")
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise BadJSON(f"more than {MAX_DEPTH} levels of brackets") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or a number with too many digits
        raise BadJSON(" ".join(str(error).split())[:200]) from error
    _check_depth(value)
    # An escape can make half of a surrogate pair, which is no text: it can be neither written nor the name of a file.
    if _ESCAPED_HALF.search(data) and _HALF_PAIR.search(json.dumps(value, ensure_ascii=False)):
        raise BadJSON("a text with half of a surrogate pair")
    if not isinstance(value, expected):
        raise BadJSON(f"not a JSON {_NAMES.get(expected, expected.__name__)}")
    return value


def parse_object(data: bytes | str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Parse a JSON object. Raises BadJSON for anything else."""
    return parse_json(data, dict, max_bytes)


def read_json_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read the JSON object in the file at `path`. Raises BadJSON for anything else, and OSError."""
    return parse_object(read_limited(path, max_bytes), max_bytes)


def read_limited(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file, of one too large only the start, which `parse_json` refuses. Raises OSError."""
    with path.open("rb") as file:
        return file.read(max_bytes + 1)


def as_object(value: object, what: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object; the message of the BadJSON for anything else names it by `what`."""
    if not isinstance(value, dict):
        raise BadJSON(f"{what} is not a JSON object")
    return value


def _check_depth(value: object) -> None:
    """Raise BadJSON for more than `MAX_DEPTH` levels, which are walked one by one, without recursion."""
    level = [value] if isinstance(value, _NESTED) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if type(inner) in _NESTED
        ]
    if level:
        raise BadJSON(f"more than {MAX_DEPTH} levels of brackets")
