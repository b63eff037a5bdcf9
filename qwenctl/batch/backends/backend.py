"""What a batch needs of whoever answers, be it the engine on this machine or servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwenctl.batch.records import Answer, Record, RecordError
from qwenctl.batch.specs import InputSpec


@dataclass(frozen=True)
class BackendStats:
    """What was done so far: tokens of prompts evaluated, or copied from a shared beginning, and tokens of answers.

    Seconds that went into prompts and answers, where they can be told apart; records that are answered now, at once at
    the most, and those that wait.
    """

    prompt_tokens: int = 0
    shared_tokens: int = 0
    answer_tokens: int = 0
    prompt_s: float = 0.0
    answer_s: float = 0.0
    active: int = 0
    parallel: int = 0
    waiting: int = 0


class BatchBackend(Protocol):
    """Takes records by number and gives back answers in any order. Every method may raise QwenctlError."""

    @property
    def model(self) -> str:
        """The name of what answers."""

    @property
    def queue_depth(self) -> int:
        """How many records it wants to have at hand."""

    @property
    def stats(self) -> BackendStats:
        """What was done so far."""

    def submit(self, number: int, record: Record) -> None:
        """Answer a record, soon."""

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """What has been answered since the last call; waits for something up to `timeout_s`."""

    def close(self) -> None:
        """End at once; may be called twice."""


class BackendSpec(Protocol):
    """Who is to answer, as a frozen value. Both methods may raise QwenctlError."""

    def identity(self) -> Mapping[str, Any]:
        """What determines answers besides their records; the same when a batch is resumed."""

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> BatchBackend:
        """The backend for the records of `source`; `warn` hears what went wrong and was made good."""
