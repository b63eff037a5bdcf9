"""Stands a marker in the place of each text from outside while a chat template is rendered.

Messages and functions come in, as a template expects them, with markers that nobody could have foreseen; what the
template made of them is cut into pieces of template and pieces from outside. Which tokens they are is not known here.
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
    """The markers of one prompt."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(16)
        self._pieces: list[TemplateSegment] = []
        self._seen_user = False

    def message(self, message: Message) -> dict[str, Any]:
        """The message as the template expects it. The begins of the first user's text and of an assistant's are marked.

        White space at both ends is left out: the templates of Qwen3.5 trim it and cannot see it in a marker.
        """
        role = message.role
        marked = role == "assistant" or (role == "user" and not self._seen_user)
        self._seen_user = self._seen_user or role == "user"
        fields: dict[str, Any] = {"role": role, "content": self._content(message, marked=marked)}
        if role == "assistant":
            fields["reasoning_content"] = self._marker(message.thinking.strip(), marked=True)
        if message.tool_calls:
            fields["tool_calls"] = [self._call(call) for call in message.tool_calls]
        return fields

    def tool(self, tool: dict[str, Any]) -> OpaqueJson:
        """A function as the template expects it: all that a template can do with it is to write it as JSON."""
        return OpaqueJson(self._marker(to_json(tool)))

    def split(self, rendered: str) -> Iterator[TemplateSegment]:
        """What was rendered, with the texts in the place of their markers."""
        parts = re.split(rf"\[{self._nonce}:(\d+)\]", rendered)
        yield TemplateSegment(parts[0])
        for number, template in zip(parts[1::2], parts[2::2], strict=True):
            yield self._pieces[int(number)]
            yield TemplateSegment(template)

    def _content(self, message: Message, *, marked: bool) -> str | list[dict[str, str]]:
        """The text, or where there are pictures its parts; what follows a picture is marked, and what precedes all."""
        if not message.media:
            return self._marker(message.content.strip(), marked=marked)
        parts = [{"type": "text", "text": self._boundary()}] if marked else []
        text, done = message.content.rstrip(), 0
        for media in sorted(message.media, key=lambda media: media.at):
            if before := text[done : media.at]:
                parts.append({"type": "text", "text": self._marker(before)})
            parts.append({"type": media.kind})
            done = max(done, media.at)
        rest = {"type": "text", "text": self._marker(text[done:], marked=True) or self._boundary()}
        return [*parts, rest]

    def _boundary(self) -> str:
        """A place in which nothing stands, marked."""
        self._pieces.append(TemplateSegment("", untrusted=True, boundary=True))
        return f"[{self._nonce}:{len(self._pieces) - 1}]"

    def _call(self, call: ToolCall) -> dict[str, Any]:
        """A call in OpenAI's form, but that the arguments are not JSON: the templates of Qwen3.5 want a mapping."""
        arguments = {self._marker(name): self._value(value) for name, value in call.arguments.items()}
        return {"type": "function", "function": {"name": self._marker(call.name), "arguments": arguments}}

    def _value(self, value: Any) -> Any:
        """A value with its text marked; numbers and truth values are left to the template, which has its own form."""
        if isinstance(value, str):
            return self._marker(value)
        return self._marker(to_json(value)) if isinstance(value, dict | list) else value

    def _marker(self, text: str, *, marked: bool = False) -> str:
        if not text:
            return ""
        self._pieces.append(TemplateSegment(text, untrusted=True, boundary=marked))
        return f"[{self._nonce}:{len(self._pieces) - 1}]"


class OpaqueJson(dict[str, Any]):
    """A value of which a template sees nothing but, as its JSON, the marker."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.marker = marker


def to_json(value: object, **options: Any) -> str:
    """JSON as transformers renders it in templates: no escapes for HTML or for letters beyond ASCII."""
    return value.marker if isinstance(value, OpaqueJson) else json.dumps(value, **{"ensure_ascii": False, **options})
