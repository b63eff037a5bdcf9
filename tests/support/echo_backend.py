"""A backend for batches that answers each record with its own prompt, at once and without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.records import Answer, Record, RecordError
from qwenctl.batch.specs import InputSpec


@dataclass
class EchoBackend:
    """Answers with the last message; counts ten tokens for each prompt and two for each answer."""

    stats: BackendStats
    fails: Callable[[Record], bool] = lambda _: False
    collect_raises: BaseException | None = None
    model: str = "echo"
    queue_depth: int = 4
    asked: list[Record] = field(default_factory=list)
    is_closed: bool = False
    _waiting: list[tuple[int, Record]] = field(default_factory=list)

    def submit(self, number: int, record: Record) -> None:
        self.asked.append(record)
        self._waiting.append((number, record))

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        if self.collect_raises is not None and len(self.asked) > 1:
            raise self.collect_raises
        waiting, self._waiting = self._waiting[:1], self._waiting[1:]
        return [(number, self._answer(record)) for number, record in waiting]

    def close(self) -> None:
        self.is_closed = True

    def _answer(self, record: Record) -> Answer | RecordError:
        if self.fails(record):
            return RecordError("refused", "no")
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        return Answer(record.messages[-1].content, "", (), "stop", usage)


@dataclass
class EchoSpec:
    """Opens one `EchoBackend`; `opened` counts how often that happened."""

    backend: EchoBackend = field(default_factory=lambda: EchoBackend(BackendStats()))
    open_raises: BaseException | None = None
    opened: int = 0

    def identity(self) -> Mapping[str, Any]:
        return {"model": "echo"}

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> EchoBackend:
        self.opened += 1
        if self.open_raises is not None:
            raise self.open_raises
        return self.backend
