"""The messages of the engine's protocol as lines of JSON, one message a line, and other values out of JSON.

A line is `["Name", {fields}]`. `encode` and `decode` are each other's inverse for every message. The text of the JSON
is the standard library's, not msgspec's, which can hold neither a path that is not UTF-8 nor a number that is none.
What the lines go through is not known here.
"""

from __future__ import annotations

import json
from typing import TypeVar

from qwenctl.protocol import batch, load, media, messages
from qwenctl.protocol.base import EngineInput, Event

T = TypeVar("T")

# One of each for all tokens; `dataclasses.asdict` would take ten times as long.
_ENCODER, _DECODER = json.JSONEncoder(default=vars), json.JSONDecoder()
_NESTED = (dict, list)
_KINDS: dict[object, type[EngineInput | Event]] = {
    name: kind
    for module in (batch, load, media, messages)
    for name, kind in vars(module).items()
    if hasattr(kind, "__dataclass_fields__") and issubclass(kind, (EngineInput, Event))
}


def encode(message: EngineInput | Event) -> bytes:
    """One line of JSON, newline included."""
    return _ENCODER.encode([type(message).__name__, vars(message)]).encode() + b"\n"


def decode(line: bytes, expected: type[T]) -> T:
    """The message of one line, which is of the class `expected` or derives from it.

    Raises ValueError for anything that `encode` did not make, and says what is wrong with it.
    """
    try:
        name, fields = _DECODER.decode(line.decode())
        kind = _KINDS.get(name)
        if kind is None or not issubclass(kind, expected):
            raise ValueError(f"no {expected.__name__} is called {name!r}")
        return from_builtins(kind, fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a message of the engine's protocol: {line[:80]!r}: {error}") from error


def from_builtins(kind: type[T], value: object) -> T:
    """The dataclass `kind` with the fields of `value`, as JSON gives them: the inverse of `dataclasses.asdict`.

    Raises ValueError for a field of another type, a missing one, and one that is not known, in any depth.
    """
    import msgspec  # not for `--help`

    try:
        made = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:  # a ValueError in newer releases only
        raise ValueError(str(error)) from error
    _check_names(made, value)
    return made


def _check_names(made: object, value: object) -> None:
    """msgspec passes over fields of a dataclass that it does not have; a name misspelled is not to be lost."""
    if type(value) is list and type(made) is tuple:
        for one, inner in zip(made, value, strict=True):
            _check_names(one, inner)
    elif type(value) is dict and hasattr(made, "__dataclass_fields__"):
        fields = vars(made)
        if not fields.keys() >= value.keys():
            unknown = ", ".join(repr(name) for name in value if name not in fields)
            raise ValueError(f"{type(made).__name__} has no field {unknown}")
        for name, inner in value.items():
            if type(inner) in _NESTED:
                _check_names(fields[name], inner)
