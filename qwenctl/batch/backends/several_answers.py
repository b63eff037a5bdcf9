"""A backend that answers a record several times if it asks for that (`n`), with another one that answers it once.

A record comes in and goes on as that many, each with a seed of its own; their answers come back as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qwenctl.batch.backends.backend import BackendStats, BatchBackend
from qwenctl.batch.records import Answer, Record, RecordError, record_seed


@dataclass
class _Pending:
    """A record whose answers are not all there; those that are, by their place."""

    number: int
    count: int
    outcomes: dict[int, Answer | RecordError] = field(default_factory=dict)


class SeveralAnswersBackend:
    """Records that ask for one answer are passed on as they are; `seed` is that of the batch."""

    def __init__(self, backend: BatchBackend, seed: int) -> None:
        self._backend, self._seed = backend, seed
        self._parts: dict[int, tuple[_Pending, int]] = {}
        self._submitted = 0

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._backend.model

    @property
    def queue_depth(self) -> int:
        """How many records the backend wants."""
        return self._backend.queue_depth

    @property
    def stats(self) -> BackendStats:
        """The work so far."""
        return self._backend.stats

    def submit(self, number: int, record: Record) -> None:
        """Queue a record for answering, as often as it asks."""
        count = record.params.answers
        if count == 1:
            self._backend.submit(number, record)
            return
        pending = _Pending(number, count)
        for place in range(count):
            self._submitted += 1
            sampling = {**record.params.sampling, "seed": seed_of_answer(record, self._seed, place)}
            self._parts[-self._submitted] = pending, place  # numbers of records are not negative
            self._backend.submit(
                -self._submitted, replace(record, params=replace(record.params, sampling=sampling, answers=1))
            )

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """The outcomes since the last call; of a record with several, when the last is there."""
        found: list[tuple[int, Answer | RecordError]] = []
        for number, outcome in self._backend.collect(timeout_s):
            if number not in self._parts:
                found.append((number, outcome))
                continue
            pending, place = self._parts.pop(number)
            pending.outcomes[place] = outcome
            if len(pending.outcomes) == pending.count:
                found.append((pending.number, _joined([pending.outcomes[at] for at in range(pending.count)])))
        return found

    def close(self) -> None:
        """Stop the backend."""
        self._backend.close()


def seed_of_answer(record: Record, seed: int, place: int) -> int:
    """The seed of one of several answers: the first has the record's, the others hashes of it and their place."""
    first = record_seed(record, seed)
    if not place:
        return first
    return int.from_bytes(hashlib.sha256(f"{first}\0{place}".encode()).digest()[:4], "big")


def _joined(outcomes: Sequence[Answer | RecordError]) -> Answer | RecordError:
    """One answer with the others in it; the first error if there is one. The prompt's tokens count once."""
    answers = [one for one in outcomes if isinstance(one, Answer)]
    if len(answers) < len(outcomes):
        return next(one for one in outcomes if isinstance(one, RecordError))
    first, *others = answers
    usage = {
        name: count if name == "prompt_tokens" else sum(one.usage.get(name, 0) for one in answers)
        for name, count in first.usage.items()
    }
    return replace(first, usage=usage, others=tuple(others))
