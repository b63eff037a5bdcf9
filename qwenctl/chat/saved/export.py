"""Exports a conversation: as Markdown to read, or as JSON for programs.

A conversation comes in, text goes out. Images are named in Markdown and embedded in JSON as data URIs, so that one file
has everything. Videos are only named.
"""

from __future__ import annotations

import base64
import json
import mimetypes
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from qwenctl.chat.attachments import code_fence
from qwenctl.chat.conversation import Conversation
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message
from qwenctl.tools.calls import format_call

Format = Literal["markdown", "json"]
_HEADINGS = {"system": "System", "user": "You", "assistant": "Answer", "tool": "Result"}


def export_text(conversation: Conversation, form: Format) -> str:
    """Return the whole conversation as text, thinking and tool calls included.

    Raises OSError if an image cannot be read.
    """
    if form == "json":
        messages = [_fields(message) for message in conversation.messages]
        return json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n"
    parts = [part for message in conversation.messages for part in _markdown(message)]
    return "\n\n".join(parts) + "\n"


def _fields(message: Message) -> dict[str, Any]:
    fields = asdict(message)
    media = [_media_fields(each) for each in message.media]
    return {**fields, "media": media} if media else {name: value for name, value in fields.items() if name != "media"}


def _media_fields(media: Media) -> dict[str, Any]:
    """Return the fields of `media`: without its path, which means nothing elsewhere, and with an image's bytes."""
    fields = {name: value for name, value in asdict(media).items() if name != "file"}
    path = Path(media.file)
    if media.kind == "video" or not path.is_file():
        return fields
    kind = mimetypes.guess_type(media.name)[0] or "image/png"
    return {**fields, "url": f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"}


def _markdown(message: Message) -> list[str]:
    parts = [f"## {_HEADINGS.get(message.role, ' '.join(message.role.split()).capitalize())}"]
    parts += [f"[{media.kind}: {' '.join(media.name.split())}]" for media in message.media]
    if message.thinking.strip():
        thought = message.thinking.strip().replace("\n", "\n> ")
        parts.append(f"<details><summary>Thinking</summary>\n\n> {thought}\n\n</details>")
    text = message.content.strip()
    if message.role == "tool":
        text = code_fence(text)
    if text or not message.tool_calls:
        parts.append(text)
    return parts + [code_fence(format_call(call)) for call in message.tool_calls]
