"""An answer as an output line: in qwenctl's format, in that of OpenAI's batch API, or as a single field.

A line depends only on the record and the backend: timings, which vary between runs, belong to the statistics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from qwenctl.batch.records import Answer, Record
from qwenctl.protocol.messages import TokenLogprob, ToolCall

Style = Literal["qwenctl", "openai"]
FIELDS = ("id", "answer", "thinking", "tool_calls", "finish_reason", "usage", "hash")
_OPENAI_REASONS = {"stop": "stop", "tool_calls": "tool_calls"}


def render(record: Record, fingerprint: str, answer: Answer, style: Style, select: str, model: str) -> str:
    """The output line without its newline. `select` names the only field to write; "" for all."""
    if style == "openai":
        return _to_line(_openai_fields(record, fingerprint, answer, model))
    fields = {
        "id": record.key,
        **record.passthrough,
        "answer": answer.text,
        "thinking": answer.thinking,
        "tool_calls": _calls(answer),
        "finish_reason": answer.finish_reason,
        "usage": dict(answer.usage),
        **_logprobs(answer),
        "hash": fingerprint,
    }
    choices = [_choice(one) for one in (answer, *answer.others)]
    if select:
        is_several = bool(answer.others) and select in choices[0]
        return _to_line([one[select] for one in choices] if is_several else fields[select])
    return _to_line({**fields, "choices": choices} if answer.others else fields)


def _choice(answer: Answer) -> dict[str, Any]:
    """The fields of one of the answers to a record."""
    return {
        "answer": answer.text,
        "thinking": answer.thinking,
        "tool_calls": _calls(answer),
        "finish_reason": answer.finish_reason,
        **_logprobs(answer),
    }


def _logprobs(answer: Answer) -> dict[str, Any]:
    """The field with the tokens of an answer and their probabilities, if the record asks for it."""
    return {"logprobs": [_token(one) for one in answer.logprobs]} if answer.logprobs is not None else {}


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {**_alternative(one), "top_logprobs": [_alternative(other) for other in one.top_logprobs]}


def _alternative(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.bytes) if one.bytes is not None else None}


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [asdict(call) for call in answer.tool_calls]


def _openai_fields(record: Record, fingerprint: str, answer: Answer, model: str) -> Mapping[str, Any]:
    """The fields of an output line of OpenAI's batch API."""
    prompt, made = answer.usage.get("prompt_tokens", 0), answer.usage.get("completion_tokens", 0)
    name = _unique_id(record.key, fingerprint)
    body = {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": 0,  # not the time: the same batch gives the same bytes
        "model": model,
        "choices": [_openai_choice(number, one, name) for number, one in enumerate((answer, *answer.others))],
        "usage": {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made},
    }
    response = {"status_code": 200, "request_id": name, "body": body}
    return {
        "id": f"batch_req_{name}",
        "custom_id": record.key,
        "response": response,
        "error": None,
        **record.passthrough,
    }


def _unique_id(key: str, fingerprint: str) -> str:
    """An id (32 hex digits) of one record: others that ask the same with the same seed have the same fingerprint."""
    return hashlib.sha256(f"{fingerprint}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _openai_choice(number: int, answer: Answer, name: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thinking:
        message["reasoning_content"] = answer.thinking
    if answer.tool_calls:
        ids = f"call_{name[:16]}_{f'{number}_' if number else ''}"
        message["tool_calls"] = openai_calls(answer.tool_calls, ids)
    reason = _OPENAI_REASONS.get(answer.finish_reason, "length")
    logprobs = {"content": _logprobs(answer)["logprobs"], "refusal": None} if answer.logprobs is not None else None
    return {"index": number, "message": message, "finish_reason": reason, "logprobs": logprobs}


def openai_calls(calls: Sequence[ToolCall], ids: str) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's format; `ids` is the prefix of their ids, which a number follows."""
    return [
        {
            "id": f"{ids}{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for number, call in enumerate(calls)
    ]


def _to_line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
