"""The messages of the engine's protocol as lines of JSON, one message a line.

`encode` and `decode` are each other's inverse for every message. What the lines go through is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from qwenctl.protocol.batch import BatchMessage
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import AnyMessage, Message, Sampling, Timings, ToolCall, Usage
from qwenctl.protocol.placement import MemoryUse, placement_from_json


def _settings(fields: Mapping[str, Any]) -> LoadParams:
    return LoadParams(**{**fields, "placement": placement_from_json(fields["placement"])})


_ENCODER = json.JSONEncoder(default=vars)  # one for all tokens: `dataclasses.asdict` would take ten times as long
_MEDIA = get_args(get_type_hints(Media)["kind"])
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(AnyMessage | BatchMessage)}


def encode(message: AnyMessage | BatchMessage) -> bytes:
    """One line of JSON, newline included."""
    return _ENCODER.encode([type(message).__name__, vars(message)]).encode() + b"\n"


def decode(line: bytes) -> AnyMessage | BatchMessage:
    """The message of one line. Raises ValueError on anything that `encode` did not make."""
    try:
        name, fields = json.loads(line)
        for key in _PARTS.keys() & fields.keys():  # of a token, which is nearly every message, none
            fields[key] = _PARTS[key](fields[key])
        message: AnyMessage | BatchMessage = _KINDS[name](**fields)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"not a message of the engine's protocol: {line[:200]!r}") from error
    return message


def _is_media(media: Media) -> bool:
    texts: list[object] = [media.file, media.name, media.sha256]
    place: object = media.at
    return all(isinstance(one, str) for one in texts) and isinstance(place, int) and media.kind in _MEDIA


def message_from_json(fields: Mapping[str, Any]) -> Message:
    """The turn with these fields, as `dataclasses.asdict` gives them. Raises TypeError for what cannot be one."""
    calls = [{"name": call["name"], "arguments": call["arguments"]} for call in fields.get("tool_calls", ())]
    media = tuple(Media(**each) for each in fields.get("media", ()))
    texts = {name: text for name, text in fields.items() if name not in ("tool_calls", "media")}
    if not all(isinstance(text, str) for text in (*texts.values(), *(call["name"] for call in calls))):
        raise TypeError("a message is no text")
    if not all(isinstance(call["arguments"], dict) for call in calls):
        raise TypeError("a call has no arguments")
    if not all(map(_is_media, media)):
        raise TypeError("a picture is none")
    return Message(**texts, tool_calls=tuple(ToolCall(**call) for call in calls), media=media)


_PARTS: dict[str, Callable[[Any], Any]] = {  # by the name of the field, for all messages
    "settings": _settings,
    "sampling": lambda fields: Sampling(**fields),
    "usage": lambda fields: Usage(**fields),
    "timings": lambda fields: Timings(**fields),
    "media": lambda fields: Media(**fields),
    "vision": lambda fields: VisionSettings(**fields),
    "memory": lambda several: tuple(MemoryUse(**fields) for fields in several),
    "messages": lambda several: tuple(map(message_from_json, several)),
    "prefix_messages": lambda several: tuple(map(message_from_json, several)),
    "tools": tuple,
}
