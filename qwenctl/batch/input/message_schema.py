"""The schema of a message in OpenAI's format: text or parts, tool calls, images and videos by URL or path.

JSON values come in, a `Message` goes out. Its media are only names so far: whether they exist is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from quantize.foreign_json import parse_json
from qwenctl.batch.input.strict_json import StrictModel
from qwenctl.files.media_files import unresolved_media
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, ToolCall


class _Idle(StrictModel):
    """What clients and gateways add to messages for themselves: no model ever sees it."""

    cache_control: dict[str, Any] | None = None
    provider_specific_fields: dict[str, Any] | None = None


class _Function(StrictModel):
    name: str
    arguments: str | dict[str, Any] | None


class _Call(_Idle):
    id: str | None = None
    index: int | None = None  # of a stream
    type: Literal["function"] = "function"
    function: _Function


class _Text(_Idle):
    type: Literal["text"]
    text: str


class _Refusal(_Idle):
    type: Literal["refusal"]
    refusal: str


class _Address(StrictModel):
    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class _Picture(_Idle):
    """An image in OpenAI's format; the URL may also be a path."""

    type: Literal["image_url"]
    image_url: _Address


class _Clip(_Idle):
    type: Literal["video_url"]
    video_url: _Address


PART_TYPES = ("text", "refusal", "image_url", "video_url")
_Part = Annotated[_Text | _Refusal | _Picture | _Clip, Field(discriminator="type")]


class MessageForm(_Idle):
    """A message of a conversation, in OpenAI's format."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # a newer name of the same, of vLLM and gateways
    id: str | None = None
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
        return Message(role, text, self.reasoning_content or self.reasoning or "", calls, media)


def to_messages(forms: Sequence[MessageForm]) -> tuple[Message, ...]:
    """The messages of a conversation, with the results of calls in the order of the calls.

    Templates write results without their ids, so that the model joins them by their order. Raises ValueError for a
    result of no call, and as `MessageForm.message`.
    """
    messages, ids, at = list[Message](), list[str | None](), 0
    results = list[tuple[int, Message]]()
    for form in forms:
        message = form.message()
        if form.role == "tool":
            results.append((_place_of_result(form.tool_call_id, ids, at), message))
            at += 1
            continue
        messages += _in_order(results)
        ids, at, results = [call.id for call in form.tool_calls or ()], 0, []
        messages.append(message)
    return (*messages, *_in_order(results))


def _place_of_result(given: str | None, ids: Sequence[str | None], at: int) -> int:
    """The index of the call that a result belongs to: by its id, or else its place `at` among the results."""
    if not given or not any(ids):  # as clients without ids write it
        return at
    if given not in ids:
        raise ValueError(f"tool_call_id {given!r:.60} is that of no call in the message before")
    return ids.index(given)


def _in_order(results: Sequence[tuple[int, Message]]) -> Iterator[Message]:
    return (message for _, message in sorted(results, key=lambda result: result[0]))


def _content(given: str | list[_Part] | None) -> tuple[str, tuple[Media, ...]]:
    """The text, and the media at their character offsets in it, by name."""
    if not isinstance(given, list):
        return given or "", ()
    text, media = "", []
    for part in given:
        if isinstance(part, _Text):
            text += part.text
        elif isinstance(part, _Refusal):
            text += part.refusal
        elif isinstance(part, _Picture):
            media.append(unresolved_media("image", part.image_url.url, len(text)))
        else:
            media.append(unresolved_media("video", part.video_url.url, len(text)))
    return text, tuple(media)


def _arguments(function: _Function) -> dict[str, Any]:
    """The arguments of a call, which OpenAI encodes as a JSON string. Raises ValueError if they are not an object."""
    found: object = function.arguments if function.arguments is not None else {}
    if isinstance(found, str):
        try:
            found = parse_json(found or "{}", object)
        except ValueError as error:
            raise ValueError(f"the arguments of {function.name} are not JSON") from error
    if not isinstance(found, dict):
        raise ValueError(f"the arguments of {function.name} are not an object")
    return found
