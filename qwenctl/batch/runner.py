"""The loop of a batch: skips records that are already done, has the others answered, and writes the results.

Records, a writer and a backend come in; statistics go out while it runs and at the end. Which backend and writer these
are, and how statistics are shown, is not known here. A record that asks for several answers goes to the backend several
times, each with a seed of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qwenctl.batch.backends.backend import BackendStats, BatchBackend
from qwenctl.batch.input.seen_ids import IdSet
from qwenctl.batch.output.batch_journal import JournalEntry
from qwenctl.batch.output.formats import Style, render
from qwenctl.batch.output.writers import ResultWriter
from qwenctl.batch.records import (
    Answer,
    InvalidRecord,
    Record,
    RecordError,
    hashed_seed,
    record_fingerprint,
    record_seed,
)

_WAIT_SECONDS = 0.5
# A record may be this many queue depths ahead of the first unfinished one: so many answers wait in the journal at most.
_AHEAD = 8


@dataclass(frozen=True)
class RunSettings:
    """How answers are written, and what determines them besides the records; `total` records, if known.

    `seed` and `backend`, the backend's identity, are part of each answer's fingerprint.
    """

    style: Style
    select: str
    seed: int
    backend: Mapping[str, Any]
    total: int | None = None


@dataclass
class BatchStats:
    """How far a batch is: records done by an earlier run, answered, failed; and timings for the final summary."""

    total: int | None
    known: int = 0
    answered: int = 0
    failed: int = 0
    bad: int = 0
    first_failure: str = ""  # the first record that failed in this run, and why
    cut: int = 0  # answers that were truncated: by a limit, or as a repetition
    started: float = field(default_factory=time.monotonic)  # time.monotonic(), s
    work: BackendStats = field(default_factory=BackendStats)
    seconds: list[float] = field(default_factory=list)  # latencies of a sample of answers
    rates: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, prompt tokens, answer tokens so far

    @property
    def settled(self) -> int:
        """Records that need no more work."""
        return self.known + self.answered + self.failed


class BatchRunner:
    """One run of a batch over its input."""

    def __init__(
        self, settings: RunSettings, output: ResultWriter, backend: BatchBackend, report: Callable[[BatchStats], None]
    ) -> None:
        self._settings, self._output, self._backend, self._report = settings, output, backend, report
        self._ids = IdSet()
        self._stride = 1
        self._in_flight: dict[int, tuple[Record, str, float]] = {}
        self.stats = BatchStats(settings.total)

    def run(self, items: Iterator[Record | InvalidRecord]) -> BatchStats:
        """Process all items; the final statistics. Raises what the writer, the backend and the items raise."""
        numbered = enumerate(items)
        more = True
        while more or self._in_flight:
            more = more and self._feed(numbered)
            if self._in_flight:
                for number, outcome in self._backend.collect(_WAIT_SECONDS):
                    self._settle(number, outcome)
            self._output.sync_if_due()
            self._report_progress()
        self._report_progress()
        return self.stats

    def _feed(self, numbered: Iterator[tuple[int, Record | InvalidRecord]]) -> bool:
        """Submit records until the backend's queue is full; False at the end of the input."""
        while self._has_capacity():
            number, item = next(numbered, (-1, None))
            if item is None:
                return False
            if isinstance(item, InvalidRecord):
                self._refuse(number, item)
            elif not self._ids.add(item.key):  # the name is that of the first, so this one has none
                self._refuse(number, InvalidRecord(item.line, f"line {item.line}", f"duplicate id {item.key!r}"))
            else:
                self._submit(number, item)
            self._output.sync_if_due()
        return True

    def _has_capacity(self) -> bool:
        window = self._backend.queue_depth
        if len(self._in_flight) >= window:
            return False
        newest, oldest = max(self._in_flight, default=0), min(self._in_flight, default=0)
        return newest - oldest < _AHEAD * window

    def _submit(self, number: int, record: Record) -> None:
        fingerprint = record_fingerprint(record, self._settings.seed, self._settings.backend)
        known = self._output.already_done(number, record.key, fingerprint)
        if known == "failed":
            self.stats.failed += 1
        elif known == "done":
            self.stats.known += 1
        else:
            self._in_flight[number] = record, fingerprint, time.monotonic()
            self._backend.submit(number, record)

    def _refuse(self, number: int, bad: InvalidRecord) -> None:
        if bad.id is not None and not self._ids.add(bad.id):
            bad = replace(bad, id=None)
        if self._output.already_done(number, bad.key, ""):
            self.stats.failed += 1
        else:
            failure = RecordError("input", bad.reason, bad.hint)
            self._output.write_error(number, bad.key, "", bad.where, failure, line=bad.line, given_id=bad.id)
            self._count_failure(bad.id, bad.where, failure)
        self.stats.bad += 1

    def _settle(self, number: int, outcome: Answer | RecordError) -> None:
        record, fingerprint, submitted = self._in_flight.pop(number)
        if isinstance(outcome, RecordError):
            where = f"line {record.line}"
            self._output.write_error(number, record.key, fingerprint, where, outcome, line=record.line)
            self._count_failure(record.key, where, outcome)
            return
        line = render(record, fingerprint, outcome, self._settings.style, self._settings.select, self._backend.model)
        stats = {"line": record.line, "usage": dict(outcome.usage), **outcome.stats}
        self._output.write_answer(number, JournalEntry(record.key, fingerprint, line, stats))
        self.stats.answered += 1
        self.stats.cut += outcome.finish_reason in ("length", "context", "loop")
        self._sample(time.monotonic() - submitted)

    def _count_failure(self, name: str | None, where: str, failure: RecordError) -> None:
        self.stats.failed += 1
        named = f"{name!r}, " if name is not None else ""
        self.stats.first_failure = self.stats.first_failure or f"{named}{where}: {failure.message}"

    def _sample(self, seconds: float) -> None:
        """Record a latency. In long batches only every 2nd, 4th, … is kept, so that memory stays bounded."""
        if self.stats.answered % self._stride == 0:
            self.stats.seconds.append(seconds)
        if len(self.stats.seconds) > 1 << 12:
            del self.stats.seconds[::2]
            self._stride *= 2

    def _report_progress(self) -> None:
        stats = self.stats
        stats.work = self._backend.stats
        now = time.monotonic() - stats.started
        if not stats.rates or now - stats.rates[-1][0] >= 1:
            stats.rates.append((now, stats.work.prompt_tokens, stats.work.answer_tokens))
        if len(stats.rates) > 1 << 12:
            del stats.rates[1::2]
        self._report(stats)


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
    return hashed_seed(first, place) if place else first


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
