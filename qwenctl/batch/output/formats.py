"""An answer as a line of the output: the program's own form, OpenAI's, or one field alone.

Everything in a line is determined by the record and what answers it: times and other chances belong to the statistics.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from qwenctl.batch.records import Answer, Record
from qwenctl.protocol.messages import ToolCall

Style = Literal["qwenctl", "openai"]
FIELDS = ("id", "answer", "thinking", "tool_calls", "finish_reason", "usage", "hash")
_OPENAI_REASONS = {"stop": "stop", "tool_calls": "tool_calls"}


def render(record: Record, fingerprint: str, answer: Answer, style: Style, select: str, model: str) -> str:
    """The line, without its newline. `select` names the one field that is wanted; "" is all."""
    if style == "openai":
        return _line(_openai(record, fingerprint, answer, model))
    fields = {
        "id": record.key,
        **record.passthrough,
        "answer": answer.text,
        "thinking": answer.thinking,
        "tool_calls": [asdict(call) for call in answer.tool_calls],
        "finish_reason": answer.finish_reason,
        "usage": dict(answer.usage),
        "hash": fingerprint,
    }
    return _line(fields[select] if select else fields)


def _openai(record: Record, fingerprint: str, answer: Answer, model: str) -> Mapping[str, Any]:
    """One line of the output file of OpenAI's batches."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = openai_calls(answer.tool_calls, f"call_{fingerprint[:16]}_")
    reason = _OPENAI_REASONS.get(answer.finish_reason, "length")
    prompt, made = answer.usage.get("prompt_tokens", 0), answer.usage.get("completion_tokens", 0)
    body = {
        "id": f"chatcmpl-{fingerprint}",
        "object": "chat.completion",
        "created": 0,  # not the time: the same batch gives the same bytes
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made},
    }
    response = {"status_code": 200, "request_id": fingerprint, "body": body}
    return {
        "id": f"batch_req_{fingerprint}",
        "custom_id": record.key,
        "response": response,
        "error": None,
        **record.passthrough,
    }


def openai_calls(calls: Sequence[ToolCall], ids: str) -> list[dict[str, Any]]:
    """Calls of functions in OpenAI's form; their ids are `ids` and a number."""
    return [
        {
            "id": f"{ids}{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for number, call in enumerate(calls)
    ]


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
