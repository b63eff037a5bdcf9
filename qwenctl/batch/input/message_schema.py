"""The schema of a message in OpenAI's format: text or parts, tool calls, images and videos by URL or path.

JSON values come in, a `Message` goes out. Its media are only names so far: whether they exist is not known here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from quantize.foreign_json import parse_json
from qwenctl.batch.input.strict_json import StrictModel
from qwenctl.files.media_files import unresolved_media
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, ToolCall


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
    """An image in OpenAI's format; the URL may also be a path."""

    type: Literal["image_url"]
    image_url: _Address


class _Clip(StrictModel):
    type: Literal["video_url"]
    video_url: _Address


PART_TYPES = ("text", "image_url", "video_url")
_Part = Annotated[_Text | _Picture | _Clip, Field(discriminator="type")]


class MessageForm(StrictModel):
    """A message of a conversation, in OpenAI's format."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None

    def message(self) -> Message:
        """The message. Raises ValueError for media of another role than user, and for arguments that are no object."""
        text, media = _content(self.content if self.content is not None else self.refusal)
        if media and self.role != "user":
            raise ValueError("images are allowed only in user messages")
        calls = tuple(ToolCall(call.function.name, _arguments(call.function)) for call in self.tool_calls or ())
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, self.reasoning_content or "", calls, media)


def _content(given: str | list[_Part] | None) -> tuple[str, tuple[Media, ...]]:
    """The text, and the media at their character offsets in it, by name."""
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
    """The arguments of a call, which OpenAI encodes as a JSON string. Raises ValueError if they are not an object."""
    found: object = function.arguments
    if isinstance(found, str):
        try:
            found = parse_json(found or "{}", object)
        except ValueError as error:
            raise ValueError(f"the arguments of {function.name} are not JSON") from error
    if not isinstance(found, dict):
        raise ValueError(f"the arguments of {function.name} are not an object")
    return found
