"""The interface of a backend that answers the records of a batch: the engine on this machine, or servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwenctl.batch.records import Answer, Record, RecordError
from qwenctl.batch.specs import InputSpec


@dataclass(frozen=True)
class BackendStats:
    """The work so far: prompt tokens evaluated, prompt tokens copied from a shared prefix, and answer tokens.

    `prompt_s` and `answer_s` are seconds, 0 if they cannot be told apart. Of the records, `active` are being answered,
    `parallel` at once at most, and `waiting` are queued.
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
    """Takes records by number and returns answers in any order. Every method may raise QwenctlError."""

    @property
    def model(self) -> str:
        """The name of the model."""

    @property
    def queue_depth(self) -> int:
        """How many submitted records it wants, so that it is never idle."""

    @property
    def stats(self) -> BackendStats:
        """The work so far."""

    def submit(self, number: int, record: Record) -> None:
        """Queue a record for answering."""

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """The outcomes since the last call; waits up to `timeout_s` seconds for the first."""

    def close(self) -> None:
        """Stop at once; may be called twice."""


class BackendSpec(Protocol):
    """Which backend to use, as a frozen value. Both methods may raise QwenctlError."""

    def identity(self) -> Mapping[str, Any]:
        """What determines answers besides the records. It must not change when a batch is resumed."""

    def open(self, source: InputSpec, warn: Callable[[str], None]) -> BatchBackend:
        """Start the backend for the records of `source`; `warn` is called for problems that it recovers from."""
