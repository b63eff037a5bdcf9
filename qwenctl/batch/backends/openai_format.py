"""OpenAI's chat completions format: records become request bodies, and responses become answers.

Nothing is sent here. A response without an answer raises one of two errors, depending on whether a retry may help.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quantize.foreign_json import parse_object
from qwenctl.batch.output.formats import openai_calls
from qwenctl.batch.records import Answer, Record
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.media_files import to_data_uri
from qwenctl.http_retry import retry_after_seconds
from qwenctl.protocol.messages import Message, TokenLogprob, ToolCall, may_think
from qwenctl.tools.call_grammar import ToolChoice

_BUSY = (408, 409, 425, 429)  # HTTP status codes
_MAX_WAIT_S = 600.0  # of a Retry-After header
_NO_PROBABILITY = -9999.0  # OpenAI's number for it


class RetryableResponse(Exception):
    """A retry may succeed, after `wait` seconds if the server said so."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class PermanentError(Exception):
    """A retry will not help; `stops_all` is set if every record would fail like this."""

    def __init__(self, message: str, stops_all: QwenctlError | None = None) -> None:
        super().__init__(message)
        self.stops_all = stops_all


def request_body(record: Record, model: str, seed: int) -> dict[str, Any]:
    """The JSON body of the request. Raises QwenctlError for an image or video that cannot be read."""
    params = record.params
    body: dict[str, Any] = {"messages": [_message(one) for one in record.messages], "stream": False, "seed": seed}
    if model:
        body["model"] = model
    body |= {name: value for name, value in params.sampling.items() if name != "seed"}
    if params.max_tokens >= 0:
        body["max_tokens"] = params.max_tokens or 1  # servers refuse 0: the answer is dropped
    if params.json_schema:
        schema = {"name": "answer", "schema": json.loads(params.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if params.stop:
        body["stop"] = list(params.stop)
    if params.grammar:
        body["grammar"] = params.grammar  # an extension of llama-server
    if params.tools:
        body |= {"tools": list(params.tools), **_tool_choice(params.tool_choice)}
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    if params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": params.logprobs}
    thinks = may_think(params.think, params.think_budget)
    body["chat_template_kwargs"] = {**params.template_variables, "enable_thinking": thinks}
    if thinks and params.think_budget > 0:
        body["thinking_budget_tokens"] = params.think_budget  # an extension of llama-server
    return body


def parse_response(url: str, status: int, headers: Mapping[str, str], content: bytes, record: Record) -> Answer:
    """The answer in a response. Raises PermanentError or RetryableResponse."""
    if status in _BUSY or status >= 500:
        asked = retry_after_seconds(headers)
        wait = min(asked, _MAX_WAIT_S) if asked is not None else None
        raise RetryableResponse(f"{url}: {status}{_error_message(content)}", wait)
    if status in (401, 403):
        hint = "set the key in QWENCTL_BATCH_API_KEY"
        message = f"{url} rejected the API key ({status})"
        raise PermanentError(message, QwenctlError(message, hint, ExitCode.NO_PERMISSION))
    if status == 404:
        message = f"{url}: 404{_error_message(content)}"
        raise PermanentError(
            message, QwenctlError(message, "--endpoint needs the server's base URL, including /v1", ExitCode.USAGE)
        )
    if status != 200:
        raise PermanentError(f"{url}: {status}{_error_message(content)}")
    try:
        answer = _answer(parse_object(content), record)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise RetryableResponse(f"{url}: its response is not a chat completion") from error
    if record.params.max_tokens == 0:
        usage = {**answer.usage, "completion_tokens": 0}
        logprobs = () if answer.logprobs is not None else None
        return replace(
            answer, text="", thinking="", tool_calls=(), finish_reason="length", usage=usage, logprobs=logprobs
        )
    return answer


def _message_content(message: Message) -> str | list[dict[str, Any]]:
    """The text, or parts if there are media. Raises QwenctlError for a file that cannot be read."""
    if not message.media:
        return message.content
    parts: list[dict[str, Any]] = []
    done = 0
    for media in message.media:
        if text := message.content[done : media.at]:
            parts.append({"type": "text", "text": text})
        done, kind = media.at, f"{media.kind}_url"
        parts.append({"type": kind, kind: {"url": to_data_uri(media)}})
    return [*parts, {"type": "text", "text": message.content[done:]}]


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    """The fields of a request that say which functions must be called; those with usual values are left out."""
    fields: dict[str, Any] = {} if choice.allows_parallel else {"parallel_tool_calls": False}
    if choice.name:
        return {**fields, "tool_choice": {"type": "function", "function": {"name": choice.name}}}
    return {**fields, "tool_choice": "required"} if choice.is_required else fields


def _message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": _message_content(message)}
    if message.thinking:
        fields["reasoning_content"] = message.thinking
    if message.tool_calls:
        fields["tool_calls"] = openai_calls(message.tool_calls, "call_")
    return fields


def _answer(response: dict[str, Any], record: Record) -> Answer:
    choice = response["choices"][0]
    message, usage = choice["message"], response.get("usage") or {}
    calls = tuple(
        ToolCall(call["function"]["name"], parse_object(call["function"]["arguments"] or "{}"))
        for call in message.get("tool_calls") or ()
    )
    counts = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    text = message.get("content") or ""
    if not isinstance(text, str) or not isinstance(thinking, str):
        raise TypeError("no text")
    logprobs = _logprobs(choice.get("logprobs")) if record.params.logprobs is not None else None
    return Answer(text, thinking, calls, str(choice.get("finish_reason") or "stop"), counts, {}, logprobs)


def _logprobs(given: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """The tokens with their probabilities, as a server reports them; none if it reports none."""
    return tuple(
        replace(_token(one), top_logprobs=tuple(_token(other) for other in one.get("top_logprobs") or ()))
        for one in (given or {}).get("content") or ()
    )


def _token(given: dict[str, Any]) -> TokenLogprob:
    data = given.get("bytes")
    logprob = float(given["logprob"]) if given["logprob"] is not None else -math.inf
    # JSON has no minus infinity: servers write null, or break the rules of JSON.
    logprob = logprob if math.isfinite(logprob) else _NO_PROBABILITY
    return TokenLogprob(str(given["token"]), logprob, tuple(int(byte) for byte in data) if data is not None else None)


def _error_message(content: bytes) -> str:
    """The server's error message in parentheses; "" if there is none."""
    try:
        found = parse_object(content)["error"]
        text = found["message"] if isinstance(found, dict) else str(found)
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({' '.join(str(text).split())[:200]})"
