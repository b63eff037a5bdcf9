"""The values that travel through a batch: records, what is wrong with one, answers, and what an answer is held to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qwenctl.protocol.messages import Message, ToolCall, Tools

Number = float | int


@dataclass(frozen=True)
class GenerationParams:
    """How an answer is made, by a record's own values or those for all. `sampling`: what was given, by field name."""

    think: bool = True
    think_budget: int = -1
    max_tokens: int = -1
    sampling: Mapping[str, Number] = field(default_factory=dict)
    grammar: str = ""
    json_schema: str = ""
    tools: Tools = ()


@dataclass(frozen=True)
class Record:
    """One question. `key` is its id, `line` is its place in the input, `passthrough` is copied into its answer."""

    key: str
    line: int
    messages: tuple[Message, ...]
    wanted: GenerationParams
    passthrough: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InvalidRecord:
    """What stands in the input and cannot be answered; `where` is its file, line and column in one word."""

    line: int
    where: str
    reason: str
    hint: str = ""

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"line {self.line}"


@dataclass(frozen=True)
class Answer:
    """What came back. `stats` may differ from run to run, and all else must not."""

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Mapping[str, int]
    stats: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordError:
    """Why there is no answer."""

    kind: str
    message: str
    hint: str = ""


def record_seed(record: Record, seed: int) -> int:
    """The seed of a record: its own, or one that `seed` and its id determine, whatever stands beside it."""
    own = record.wanted.sampling.get("seed")
    if own is not None:
        return int(own)
    return int.from_bytes(hashlib.sha256(f"{seed}\0{record.key}".encode()).digest()[:4], "big")


def fingerprint(record: Record, seed: int, answerer: Mapping[str, Any]) -> str:
    """A hash of all that determines a record's answer; `answerer` says what answers, and how it is set up."""
    wanted = {**asdict(record.wanted), "seed": record_seed(record, seed)}
    messages = [asdict(message) for message in record.messages]
    text = json.dumps([wanted, messages, dict(answerer)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
