"""A message of a record, in OpenAI's form: text or parts, calls of functions, pictures by address or path.

What pydantic has parsed becomes a `Message`. Pictures are named in it, and nobody has looked for them yet.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qwenctl.files.media_files import unresolved_media
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, ToolCall


class StrictModel(BaseModel):
    """A form in which nothing may stand but what is declared, each of its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Function(StrictModel):
    name: str
    arguments: str | dict[str, Any]


class _Call(StrictModel):
    id: str | None = None
    type: Literal["function"] = "function"
    function: _Function


class _Text(StrictModel):
    type: Literal["text"]
    text: str


class _Address(StrictModel):
    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class _Picture(StrictModel):
    """OpenAI's form; the address may be a path."""

    type: Literal["image_url"]
    image_url: _Address


class _Clip(StrictModel):
    type: Literal["video_url"]
    video_url: _Address


PART_TYPES = ("text", "image_url", "video_url")
_Part = Annotated[_Text | _Picture | _Clip, Field(discriminator="type")]


class MessageForm(StrictModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def message(self) -> Message:
        """The turn. Raises ValueError for arguments that are not an object."""
        text, media = _content(self.content)
        if media and self.role != "user":
            raise ValueError("images are allowed only in user messages")
        calls = tuple(ToolCall(call.function.name, _arguments(call.function)) for call in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, self.reasoning_content or "", calls, media)


def _content(given: str | list[_Part] | None) -> tuple[str, tuple[Media, ...]]:
    """The text, and the pictures at their places in it, as they are named; nobody has looked for them yet."""
    if not isinstance(given, list):
        return given or "", ()
    text, media = "", []
    for part in given:
        if isinstance(part, _Text):
            text += part.text
        elif isinstance(part, _Picture):
            media.append(unresolved_media("image", part.image_url.url, len(text)))
        else:
            media.append(unresolved_media("video", part.video_url.url, len(text)))
    return text, tuple(media)


def _arguments(function: _Function) -> dict[str, Any]:
    """The arguments of a call, which OpenAI writes as JSON in a text. Raises ValueError."""
    found = function.arguments
    if isinstance(found, str):
        try:
            found = json.loads(found or "{}")
        except ValueError as error:
            raise ValueError(f"the arguments of {function.name} are not JSON") from error
    if not isinstance(found, dict):
        raise ValueError(f"the arguments of {function.name} are not an object")
    return found
