"""Encode messages as lines of JSON, one message per line, and decode them; also other dataclasses from JSON.

A line is `["Name", {fields}]`; `decode` inverts `encode` for every message. The JSON text is written and parsed by the
standard library, because msgspec supports neither paths that are not UTF-8 nor NaN. How lines travel is not known here.
"""

from __future__ import annotations

import json
from typing import TypeVar

from qwenctl.protocol import batch, load, media, messages
from qwenctl.protocol.base import EngineInput, Event

T = TypeVar("T")

# Created once, because one message per token is encoded; `dataclasses.asdict` would take ten times as long.
_ENCODER, _DECODER = json.JSONEncoder(default=vars), json.JSONDecoder()
_NESTED = (dict, list)
# Every message by its name on the wire: any dataclass in these modules that derives from a base class of messages.
_MESSAGE_CLASSES: dict[object, type[EngineInput | Event]] = {
    name: kind
    for module in (batch, load, media, messages)
    for name, kind in vars(module).items()
    if hasattr(kind, "__dataclass_fields__") and issubclass(kind, (EngineInput, Event))
}


def encode(message: EngineInput | Event) -> bytes:
    """Return `message` as one line of JSON, including the newline."""
    return _ENCODER.encode([type(message).__name__, vars(message)]).encode() + b"\n"


def decode(line: bytes, expected: type[T]) -> T:
    """Return the message in `line`, an instance of the class `expected`.

    Raises ValueError with the reason for any line that `encode` cannot have produced.
    """
    try:
        name, fields = _DECODER.decode(line.decode())
        kind = _MESSAGE_CLASSES.get(name)
        if kind is None or not issubclass(kind, expected):
            raise ValueError(f"no {expected.__name__} is called {name!r}")
        return from_builtins(kind, fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a message of the engine's protocol: {line[:80]!r}: {error}") from error


def from_builtins(kind: type[T], value: object) -> T:
    """Build the dataclass `kind` from `value`, a parsed JSON object: the inverse of `dataclasses.asdict`.

    Raises ValueError for a field of the wrong type, a missing field or an unknown field, at any depth.
    """
    import msgspec  # here, to keep it out of `--help`

    try:
        made = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:  # a ValueError in newer releases only
        raise ValueError(str(error)) from error
    _check_names(made, value)
    return made


def _check_names(made: object, value: object) -> None:
    """Raise ValueError for unknown fields, at any depth: msgspec ignores them, which would hide a misspelled name."""
    if type(value) is list and type(made) is tuple:
        for made_item, item in zip(made, value, strict=True):
            _check_names(made_item, item)
    elif type(value) is dict and hasattr(made, "__dataclass_fields__"):
        fields = vars(made)
        if not fields.keys() >= value.keys():
            unknown = ", ".join(repr(name) for name in value if name not in fields)
            raise ValueError(f"{type(made).__name__} has no field {unknown}")
        for name, inner in value.items():
            if type(inner) in _NESTED:
                _check_names(fields[name], inner)
