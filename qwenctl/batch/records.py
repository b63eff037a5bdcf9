"""The values that travel through a batch: records, invalid records, answers, errors, and generation parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qwenctl.models.sampling import normalize_seed
from qwenctl.protocol.messages import Message, TokenLogprob, ToolCall, Tools
from qwenctl.tools.call_grammar import ToolChoice

Number = float | int


@dataclass(frozen=True)
class GenerationParams:
    """How to generate an answer: a record's own values, or those of the batch. `sampling` has only given fields.

    The answer ends before any of the texts in `stop`; `answers` is how many to generate. `logit_bias` is added to the
    logits of tokens, by id; `logprobs` is how many alternatives to report for each token, None for no probabilities.
    """

    think: bool = True
    think_budget: int = -1
    max_tokens: int = -1
    sampling: Mapping[str, Number] = field(default_factory=dict)
    grammar: str = ""
    json_schema: str = ""
    tools: Tools = ()
    stop: tuple[str, ...] = ()
    answers: int = 1
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


_PART = 1 << 20  # characters
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=True)
# Fields that earlier releases did not have: where they have their usual value, fingerprints are without them.
_LATER_FIELDS = ("stop", "answers", "template_variables", "tool_choice", "logit_bias", "logprobs")


@dataclass(frozen=True)
class Record:
    """A prompt to answer. `key` is its id, `line` its line in the input; `passthrough` is copied into the answer."""

    key: str
    line: int
    messages: tuple[Message, ...]
    params: GenerationParams
    passthrough: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InvalidRecord:
    """A part of the input that is not a valid record; `where` is "FILE:LINE:COLUMN", `id` its name if it has one."""

    line: int
    where: str
    reason: str
    hint: str = ""
    id: str | None = None

    @property
    def key(self) -> str:
        """By which it is recognized in the next run; it is no id, which a record may have been given."""
        return f"line {self.line}"


@dataclass(frozen=True)
class Answer:
    """A generated answer. All but `stats` must be the same in every run; `others` if the record asks for several.

    `logprobs` are the tokens of `text`, if the record asks for them.
    """

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Mapping[str, int]
    stats: Mapping[str, Any] = field(default_factory=dict)
    logprobs: tuple[TokenLogprob, ...] | None = None
    others: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class RecordError:
    """Why a record has no answer. `kind` is a short word such as "input", "media", "crash" or "server"."""

    kind: str
    message: str
    hint: str = ""


def record_seed(record: Record, seed: int) -> int:
    """The seed of a record: its own, or a hash of `seed` and its id. Its place in the input does not matter."""
    own = record.params.sampling.get("seed")
    if own is not None:
        return normalize_seed(int(own))
    return hashed_seed(seed, record.key)


def hashed_seed(seed: int, name: str | int) -> int:
    """A seed made of another one and the name or number of what it is for."""
    return normalize_seed(int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:4], "big"))


def record_fingerprint(record: Record, seed: int, backend: Mapping[str, Any]) -> str:
    """A hash (32 hex digits) of everything that determines a record's answer; `backend` is the backend's identity."""
    params = {**asdict(record.params), "seed": record_seed(record, seed)}
    usual = asdict(GenerationParams())
    for name in _LATER_FIELDS:
        if params[name] == usual[name]:
            del params[name]
    messages = [asdict(message) for message in record.messages]
    found = hashlib.sha256()
    # In parts, so that a large record is in memory only once more.
    for part in _ENCODER.iterencode([params, messages, dict(backend)]):
        for begin in range(0, len(part), _PART):
            found.update(part[begin : begin + _PART].encode())
    return found.hexdigest()[:32]
