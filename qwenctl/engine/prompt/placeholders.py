"""Puts a placeholder in the place of each untrusted text while a chat template is rendered.

Messages and tools come in and go out as the template expects them, with unguessable placeholders for their texts; the
rendered string is then split into template segments and untrusted segments. Token ids are not known here.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

from qwenctl.engine.prompt.tokenizer import TemplateSegment
from qwenctl.protocol.messages import Message, ToolCall


class Placeholders:
    """The placeholders of one prompt."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)
        self._segments: list[TemplateSegment] = []
        self._seen_user = False

    def message(self, message: Message) -> dict[str, Any]:
        """The message as the template expects it, with boundaries at the first user text and at each assistant text.

        Surrounding white space is stripped here: the templates of Qwen3.5 trim it, which they cannot do to a
        placeholder.
        """
        role = message.role
        boundary = role == "assistant" or (role == "user" and not self._seen_user)
        self._seen_user = self._seen_user or role == "user"
        fields: dict[str, Any] = {"role": role, "content": self._content(message, boundary=boundary)}
        if role == "assistant":
            fields["reasoning_content"] = self._placeholder(message.thinking.strip(), boundary=True)
        if message.tool_calls:
            fields["tool_calls"] = [self._tool_call(call) for call in message.tool_calls]
        return fields

    def tool(self, tool: dict[str, Any]) -> OpaqueJson:
        """A tool definition as the template expects it: it can only write it as JSON."""
        return OpaqueJson(self._placeholder(to_json(tool)))

    def split(self, rendered: str) -> Iterator[TemplateSegment]:
        """Split the rendered template into segments, with the texts back in the place of their placeholders."""
        parts = re.split(rf"\[{self._nonce}:(\d+)\]", rendered)  # template, number, template, number, ..., template
        yield TemplateSegment(parts[0])
        for number, template in zip(parts[1::2], parts[2::2], strict=True):
            yield self._segments[int(number)]
            yield TemplateSegment(template)

    def _content(self, message: Message, *, boundary: bool) -> str | list[dict[str, str]]:
        """The text, or its parts if there are images, with boundaries before the first part and after the images."""
        if not message.media:
            return self._placeholder(message.content.strip(), boundary=boundary)
        parts = [{"type": "text", "text": self._boundary()}] if boundary else []
        text, done = message.content.rstrip(), 0
        # Cut the text at the positions of the media, in order; text parts and media parts alternate.
        for media in sorted(message.media, key=lambda media: media.at):
            if before := text[done : media.at]:
                parts.append({"type": "text", "text": self._placeholder(before)})
            parts.append({"type": media.kind})
            done = max(done, media.at)
        rest = {"type": "text", "text": self._placeholder(text[done:], boundary=True) or self._boundary()}
        return [*parts, rest]

    def _boundary(self) -> str:
        """An empty placeholder, to mark a boundary."""
        self._segments.append(TemplateSegment("", untrusted=True, boundary=True))
        return f"[{self._nonce}:{len(self._segments) - 1}]"

    def _tool_call(self, call: ToolCall) -> dict[str, Any]:
        """A tool call in OpenAI's form, but with the arguments as a mapping, which the templates of Qwen3.5 require."""
        arguments = {self._placeholder(name): self._argument(value) for name, value in call.arguments.items()}
        return {"type": "function", "function": {"name": self._placeholder(call.name), "arguments": arguments}}

    def _argument(self, value: Any) -> Any:
        """An argument with its text replaced; the template formats numbers and booleans in its own way."""
        if isinstance(value, str):
            return self._placeholder(value)
        return self._placeholder(to_json(value)) if isinstance(value, dict | list) else value

    def _placeholder(self, text: str, *, boundary: bool = False) -> str:
        if not text:
            return ""
        self._segments.append(TemplateSegment(text, untrusted=True, boundary=boundary))
        return f"[{self._nonce}:{len(self._segments) - 1}]"


class OpaqueJson(dict[str, Any]):
    """A value whose only content, for a template, is its JSON: a placeholder."""

    def __init__(self, placeholder: str) -> None:
        super().__init__()
        self.placeholder = placeholder


def to_json(value: object, **options: Any) -> str:
    """JSON as transformers renders it in templates: no escapes for HTML or non-ASCII letters."""
    return (
        value.placeholder if isinstance(value, OpaqueJson) else json.dumps(value, **{"ensure_ascii": False, **options})
    )
