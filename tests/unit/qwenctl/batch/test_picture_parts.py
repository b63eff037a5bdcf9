"""Images in batch records: their order in a server request, and invalid message parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.batch.backends.openai_format import request_body
from qwenctl.batch.input.record_schema import parse_record
from qwenctl.batch.input.strict_json import BadLine
from qwenctl.batch.records import GenerationParams
from tests.support.pictures import RED, uri


def test_message_parts_keep_order_in_server_request(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "First "}, {"type": "image_url", "image_url": {"url": str(RED)}},
        {"type": "text", "text": "then"}, {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}},
    ]  # fmt: skip
    fields = {"messages": [{"role": "user", "content": parts}]}
    record = parse_record(fields, json.dumps(fields), 1, GenerationParams(), (), lambda: "1")
    content = request_body(record, "", 0)["messages"][0]["content"]
    sent = {"type": "image_url", "image_url": {"url": uri(RED)}}
    assert content == [parts[0], sent, parts[2], parts[3], {"type": "text", "text": ""}]


@pytest.mark.parametrize(
    ("role", "part", "why"),
    [
        ("user", {"type": "image_url", "image_url": {"url": ""}}, "messages.0.content.0.image_url.url: string should"),
        ("user", {"type": "image_url", "image_url": "a.png"}, "messages.0.content.0.image_url: input should be"),
        ("user", {"type": "sound", "sound": "a.wav"}, "messages.0.content.0: input tag 'sound' found"),
        ("system", {"type": "image_url", "image_url": {"url": "a.png"}}, "images are allowed only in user messages"),
    ],
)
def test_invalid_message_part_is_refused(role: str, part: dict[str, Any], why: str) -> None:
    fields = {"messages": [{"role": role, "content": [part]}]}
    with pytest.raises(BadLine) as caught:
        parse_record(fields, json.dumps(fields), 1, GenerationParams(), (), lambda: "1")
    assert str(caught.value).startswith(why), str(caught.value)
