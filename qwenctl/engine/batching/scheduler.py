"""Continuous batching: what is evaluated next, for many records at once.

Records go in at any time; each step evaluates one batch of prompts and one token of every answer, and gives out what
has ended. A finished record's sequence goes to the next record at once. Prompts are read into tokens ahead, so that
common beginnings are found (see `prefixes`); they are evaluated in batches of as many tokens for each sequence, for
libllama computes only equal parts of sequences together, and in neighboring sequences (llama-batch.cpp, split_equal).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from qwenctl.engine.batching.context import BatchItem, MultiSequenceContext
from qwenctl.engine.batching.pinned_prefix import prefill_images
from qwenctl.engine.batching.prefix_cache import CachedPrefix, Ints, PrefixCache, best_shared_length
from qwenctl.engine.batching.slot import Slot, TokenizedRequest, read_record
from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.batch import BatchProgress, RecordDone, RecordFailed, RecordStarted, SubmitRequest

SHARED_SEQUENCES = 2  # for what all have in common, and what some have
_LEAST_AHEAD = 16
_READ_A_STEP = 4  # records, so that answers do not wait for the tokenizer
_PIGGYBACK_TOKENS = 4  # so little of a prompt is evaluated token by token, beside the answers
_MOST_PROMPT_STEPS = 8  # on end, while answers wait
_MEDIA_ERRORS = ("media", "mmproj", "model")  # kinds of failures of pictures
Finished = RecordDone | RecordFailed


@dataclass
class _Counts:
    """What `BatchProgress` tells."""

    prompt: int = 0
    shared: int = 0
    answer: int = 0
    prompt_s: float = 0.0
    answer_s: float = 0.0


class Scheduler:
    """The records of one context, of which the first `parallel` sequences are for records, the others for prefixes."""

    def __init__(self, model: LoadedModel, context: MultiSequenceContext, parallel: int) -> None:
        self._model, self._context, self._views = model, context, LogitsView(context.pointer, model.vocabulary_size)
        self._new = deque[SubmitRequest]()
        self._waiting: list[TokenizedRequest] = []
        self._slots: list[Slot | None] = [None] * parallel
        self._prefixes = PrefixCache(range(parallel, context.sequences))
        self._ahead = max(2 * parallel, _LEAST_AHEAD)
        self._prompt_steps = 0
        self._counts = _Counts()

    def set_pinned_prefix(self, tokens: Ints, evaluated: int, seconds: float) -> None:
        """All of `tokens` is in the first of the sequences for prefixes; `evaluated` of them took `seconds`."""
        prefix = self._prefixes.all[0]
        self._counts.prompt, self._counts.prompt_s = evaluated, seconds
        prefix.tokens, prefix.done, prefix.pinned = tokens, len(tokens), True

    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._new or self._waiting or self._active)

    @property
    def progress(self) -> BatchProgress:
        """What was done so far."""
        counts, waiting = self._counts, len(self._new) + len(self._waiting)
        return BatchProgress(
            counts.prompt, counts.shared, counts.answer, counts.prompt_s, counts.answer_s, len(self._active), waiting
        )

    def add(self, record: SubmitRequest) -> None:
        """Take one more record."""
        self._new.append(record)

    def step(self) -> Iterator[Finished | RecordStarted]:
        """Do the next piece of work. Raises RequestFailure if libllama cannot go on."""
        yield from self._tokenize_ahead()
        yield from self._admit()
        prompts = self._prompts()
        if prompts:
            yield from self._read_prompts(prompts)
        answers = sum(slot.is_decoding for slot in self._active)
        waits = prompts and 2 * answers < len(self._active) and self._prompt_steps < _MOST_PROMPT_STEPS
        if answers and not waits:
            yield from self._answer()

    # ------------------------------------------------------------------ which record comes next

    @property
    def _active(self) -> list[Slot]:
        return [slot for slot in self._slots if slot is not None]

    def _tokenize_ahead(self) -> Iterator[Finished | RecordStarted]:
        """Make tokens of records that will come soon: of all at the start, later of a few at a time."""
        most = _READ_A_STEP if any(slot.is_decoding for slot in self._active) else self._ahead
        while self._new and len(self._waiting) < self._ahead and most > 0:
            record, most = self._new.popleft(), most - 1
            yield RecordStarted(record.number)
            try:
                self._waiting.append(read_record(self._model, record, self._context.size))
            except RequestError as failure:
                failed = failure.failed
                yield RecordFailed(record.number, failed.kind, failed.message, failed.hint)

    def _admit(self) -> Iterator[RecordFailed]:
        """Give free sequences to waiting records."""
        for number, slot in enumerate(self._slots):
            if slot is not None:
                continue
            record = self._next_record()
            if record is None:
                break
            self._waiting.remove(record)
            begun = self._begin(record, number)
            if isinstance(begun, RecordFailed):
                yield begun
            else:
                self._slots[number] = begun
        if not self._waiting and not self._new:
            self._compact_slots()

    def _next_record(self) -> TokenizedRequest | None:
        """The first that has nothing to wait for; prefixes are begun for those that have."""
        for record in self._waiting:
            if self._prefixes.is_prefilling(record.text_prefix):
                continue
            length = self._shared_length(record)
            if not length:
                return record
            self._begin_prefix(record.text_prefix, length)
        runs = self._active or any(prefix.is_prefilling for prefix in self._prefixes.all)
        return self._waiting[0] if self._waiting and not runs else None

    def _shared_length(self, record: TokenizedRequest) -> int:
        """How much more of a prompt should be evaluated once for all; 0 if what is there will do."""
        if not self._prefixes.all:
            return 0
        base = self._prefixes.longest(record.text_prefix)
        others = (other.text_prefix for other in self._waiting if other is not record)
        return best_shared_length(record.text_prefix, len(base.tokens) if base else 0, others)

    def _begin_prefix(self, prompt: Ints, length: int) -> None:
        """Evaluate the first `length` tokens of `prompt` for all, if a sequence is free for it."""
        base = self._prefixes.longest(prompt)
        prefix = self._prefixes.evict_candidate(base, [record.text_prefix for record in self._waiting])
        if prefix is None:
            return
        self._context.clear_sequence(prefix.sequence)
        prefix.tokens, prefix.done = prompt[:length], 0
        if base is not None:
            self._copy(base, prefix.sequence)
            prefix.done = len(base.tokens)
        self._prefixes.touch(prefix)

    def _begin(self, record: TokenizedRequest, sequence: int) -> Slot | RecordFailed:
        """Start on a record; its pictures, if there are any, are evaluated at once."""
        slot = Slot.begin(self._model, record, sequence, self._context.size, self._views)
        prefix = self._prefixes.longest(record.text_prefix)
        if prefix is not None:
            self._copy(prefix, sequence)
            slot.done = slot.cached = len(prefix.tokens)
        return self._encode_images(slot) if record.views else slot

    def _encode_images(self, slot: Slot) -> Slot | RecordFailed:
        """`slot` with its pictures evaluated. A picture that cannot be seen is no matter to other records."""
        read, begin, before = slot.request, time.perf_counter(), slot.done
        try:
            slot.done, slot.mrope_saved = prefill_images(
                self._context, self._model.sight, slot.sequence, read.tokens, read.views, slot.done
            )
        except RequestError as failure:
            failed = failure.failed
            if failed.kind not in _MEDIA_ERRORS:
                raise
            slot.close()
            self._context.clear_sequence(slot.sequence)
            return RecordFailed(read.record.number, failed.kind, failed.message, failed.hint)
        self._counts.prompt += slot.done - before
        self._counts.prompt_s += time.perf_counter() - begin
        return slot

    def _copy(self, prefix: CachedPrefix, sequence: int) -> None:
        self._context.copy(prefix.sequence, sequence)
        self._counts.shared += len(prefix.tokens)
        self._prefixes.touch(prefix)

    def _compact_slots(self) -> None:
        """At the end, when sequences stay empty: move the last records forward, for gaps would part the batches."""
        while None in self._slots:
            gap, last = self._slots.index(None), max(self._active, key=lambda slot: slot.sequence, default=None)
            if last is None or last.sequence < gap:
                break
            self._context.copy(last.sequence, gap)
            self._context.clear_sequence(last.sequence)
            self._slots[last.sequence], self._slots[gap] = None, last
            last.sequence = gap

    # ------------------------------------------------------------------ what is evaluated

    def _prompts(self) -> list[Slot | CachedPrefix]:
        """Neighboring sequences with something of a prompt to evaluate, chosen so that they make the largest batch."""
        has_answers = any(slot.is_decoding for slot in self._active)
        least = _PIGGYBACK_TOKENS if has_answers else 0
        jobs: list[Slot | CachedPrefix] = [slot for slot in self._active if slot.left > least]
        jobs += [prefix for prefix in self._prefixes.all if prefix.is_prefilling]
        best: tuple[int, int, int] = (0, 0, 0)
        for begin in range(len(jobs)):
            shortest = self._context.n_batch
            for end in range(begin, len(jobs)):
                if jobs[end].sequence != jobs[begin].sequence + end - begin:
                    break
                shortest = min(shortest, _left(jobs[end]))
                count = end - begin + 1
                best = max(best, (count * min(shortest, self._context.n_batch // count), begin, end + 1))
        return jobs[best[1] : best[2]]

    def _read_prompts(self, jobs: list[Slot | CachedPrefix]) -> Iterator[RecordDone]:
        """Evaluate the next tokens of these prompts, as many of each."""
        begin = time.perf_counter()
        count = min(self._context.n_batch // len(jobs), *map(_left, jobs))
        parts = [_part(job, count) for job in jobs]
        rows = self._context.evaluate(parts)
        for job in jobs:
            job.done += count
        self._prompt_steps += 1
        self._counts.prompt += count * len(jobs)
        self._counts.prompt_s += time.perf_counter() - begin
        for job, row in zip(jobs, rows, strict=True):
            if isinstance(job, Slot) and job.is_decoding:
                yield from self._advance(job, row)

    def _answer(self) -> Iterator[RecordDone]:
        """Evaluate the next token of each answer, and beside them of each prompt that is all but read."""
        begin = time.perf_counter()
        slots = [slot for slot in self._active if slot.is_decoding or slot.left <= _PIGGYBACK_TOKENS]
        parts = [
            (slot.sequence, slot.position, [slot.token], True) if slot.is_decoding else _part(slot, 1) for slot in slots
        ]
        rows = self._context.evaluate(parts)
        self._prompt_steps = 0
        for slot, row in zip(slots, rows, strict=True):
            if slot.is_decoding:
                slot.n_generated += 1
                self._counts.answer += 1
            else:
                slot.done += 1
                self._counts.prompt += 1
            if slot.is_decoding:
                yield from self._advance(slot, row)
        self._counts.answer_s += time.perf_counter() - begin

    def _advance(self, slot: Slot, row: int) -> Iterator[RecordDone]:
        done = slot.on_logits(row)
        if done is not None:
            slot.close()
            self._context.clear_sequence(slot.sequence)
            self._slots[slot.sequence] = None
            yield done


def _left(job: Slot | CachedPrefix) -> int:
    return job.left if isinstance(job, Slot) else len(job.tokens) - job.done


def _part(job: Slot | CachedPrefix, count: int) -> BatchItem:
    """The next `count` tokens of a prompt; the logits are wanted where an answer begins."""
    if isinstance(job, CachedPrefix):
        return job.sequence, job.done, job.tokens[job.done : job.done + count], False
    tokens = job.request.tokens[job.done : job.done + count]
    return job.sequence, job.position, tokens, job.left == count
