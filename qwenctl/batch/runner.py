"""A batch from its first record to its last: what is known is skipped, the rest is answered, all is kept.

Items, an output and who answers come in; figures go out while it runs, and at its end. Who the three are, and how the
figures are shown, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenctl.batch.backends.backend import BackendStats, BatchBackend
from qwenctl.batch.input.seen_ids import IdSet
from qwenctl.batch.output.batch_journal import JournalEntry
from qwenctl.batch.output.formats import Style, render
from qwenctl.batch.output.writers import ResultWriter
from qwenctl.batch.records import Answer, InvalidRecord, Record, RecordError, fingerprint

_WAIT_SECONDS = 0.5
_AHEAD = 8  # windows that a record may be ahead of the first unfinished one


@dataclass(frozen=True)
class RunSettings:
    """How answers are written, and what determines them beside the records; `total` is their number, if known.

    `seed` and `backend`, which identifies what answers, are part of each answer's fingerprint.
    """

    style: Style
    select: str
    seed: int
    backend: Mapping[str, Any]
    total: int | None = None


@dataclass
class BatchStats:
    """How far a batch is: records known from before, answered, failed; and what each took, for the final summary."""

    total: int | None
    known: int = 0
    answered: int = 0
    failed: int = 0
    bad: int = 0
    cut: int = 0  # answers that ended at a limit
    started: float = field(default_factory=time.monotonic)
    work: BackendStats = field(default_factory=BackendStats)
    seconds: list[float] = field(default_factory=list)  # of a sample of answers
    rates: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, prompt tokens, answer tokens so far

    @property
    def settled(self) -> int:
        """Records that are over with."""
        return self.known + self.answered + self.failed


class BatchRunner:
    """One run."""

    def __init__(
        self, settings: RunSettings, output: ResultWriter, backend: BatchBackend, report: Callable[[BatchStats], None]
    ) -> None:
        self._settings, self._output, self._backend, self._report = settings, output, backend, report
        self._ids = IdSet()
        self._stride = 1
        self._in_flight: dict[int, tuple[Record, str, float]] = {}
        self.figures = BatchStats(settings.total)

    def run(self, items: Iterator[Record | InvalidRecord]) -> BatchStats:
        """All items. Raises what the output, the backend and the items raise."""
        numbered = enumerate(items)
        more = True
        while more or self._in_flight:
            more = more and self._feed(numbered)
            if self._in_flight:
                for number, outcome in self._backend.collect(_WAIT_SECONDS):
                    self._settle(number, outcome)
            self._output.sync_if_due()
            self._tell()
        self._tell()
        return self.figures

    def _feed(self, numbered: Iterator[tuple[int, Record | InvalidRecord]]) -> bool:
        """Submit as many as should be at hand; whether there may be more."""
        while self._has_capacity():
            number, item = next(numbered, (-1, None))
            if item is None:
                return False
            if isinstance(item, InvalidRecord):
                self._refuse(number, item)
            elif not self._ids.add(item.key):
                self._refuse(number, InvalidRecord(item.line, f"line {item.line}", f"the id {item.key!r} occurs twice"))
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
        print_of = fingerprint(record, self._settings.seed, self._settings.backend)
        known = self._output.already_done(number, record.key, print_of)
        if known == "failed":
            self.figures.failed += 1
        elif known == "done":
            self.figures.known += 1
        else:
            self._in_flight[number] = record, print_of, time.monotonic()
            self._backend.submit(number, record)

    def _refuse(self, number: int, bad: InvalidRecord) -> None:
        if self._output.already_done(number, bad.key, ""):
            self.figures.failed += 1
        else:
            self._fail(number, bad.key, "", bad.where, RecordError("input", bad.reason, bad.hint))
        self.figures.bad += 1

    def _settle(self, number: int, outcome: Answer | RecordError) -> None:
        record, print_of, submitted = self._in_flight.pop(number)
        if isinstance(outcome, RecordError):
            self._fail(number, record.key, print_of, f"line {record.line}", outcome)
            return
        line = render(record, print_of, outcome, self._settings.style, self._settings.select, self._backend.model)
        stats = {"line": record.line, "usage": dict(outcome.usage), **outcome.stats}
        self._output.write_answer(number, JournalEntry(record.key, print_of, line, stats))
        self.figures.answered += 1
        self.figures.cut += outcome.finish_reason in ("length", "context", "loop")
        self._sample(time.monotonic() - submitted)

    def _fail(self, number: int, key: str, print_of: str, where: str, failure: RecordError) -> None:
        self._output.write_error(number, key, print_of, where, failure)
        self.figures.failed += 1

    def _sample(self, seconds: float) -> None:
        """Keep the latency of every answer, of many answers that of each second, fourth, …: the memory stays flat."""
        if self.figures.answered % self._stride == 0:
            self.figures.seconds.append(seconds)
        if len(self.figures.seconds) > 1 << 12:
            del self.figures.seconds[::2]
            self._stride *= 2

    def _tell(self) -> None:
        figures = self.figures
        figures.work = self._backend.stats
        now = time.monotonic() - figures.started
        if not figures.rates or now - figures.rates[-1][0] >= 1:
            figures.rates.append((now, figures.work.prompt_tokens, figures.work.answer_tokens))
        if len(figures.rates) > 1 << 12:
            del figures.rates[1::2]
        self._report(figures)
