"""Continuous batching: decides what is evaluated next, for many requests at once.

Requests can be added at any time; each step evaluates one batch of prompt tokens and one token of every answer, and
yields what has finished. The sequence of a finished request goes to the next one at once. Prompts are tokenized ahead,
to detect common prefixes (see `prefix_cache`). A batch takes equally many tokens of neighboring sequences, because
libllama only computes equal parts of neighboring sequences together (llama-batch.cpp, split_equal).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from qwenctl.engine.batching.context import MultiSequenceContext
from qwenctl.engine.batching.pinned_prefix import prefill_images
from qwenctl.engine.batching.prefix_cache import CachedPrefix, Ints, PrefixCache, best_shared_length
from qwenctl.engine.batching.slot import Slot, TokenizedRequest, tokenize_request
from qwenctl.engine.kv.token_batch import BatchItem
from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.engine.model import LoadedModel
from qwenctl.engine.request_errors import RequestError
from qwenctl.protocol.batch import BatchProgress, RecordDone, RecordFailed, RecordStarted, SubmitRequest

SHARED_SEQUENCES = 2  # for a prefix that all requests have in common, and one that some have
_MIN_AHEAD = 16  # requests tokenized ahead, at least
_TOKENIZED_PER_STEP = 4  # requests, so that answers do not wait long for the tokenizer
_PIGGYBACK_TOKENS = 4  # the last tokens of a prompt, evaluated one by one in the batches of the answers
_MAX_PROMPT_STEPS = 8  # in a row while answers wait
_MEDIA_ERRORS = ("media", "mmproj", "model")  # kinds of errors that concern one request's images only
Finished = RecordDone | RecordFailed


@dataclass
class _Counts:
    """The tokens and seconds of `BatchProgress`."""

    prompt: int = 0
    shared: int = 0
    answer: int = 0
    prompt_s: float = 0.0
    answer_s: float = 0.0


class Scheduler:
    """The requests of one context: its first `parallel` sequences are for requests, the others for shared prefixes."""

    def __init__(self, model: LoadedModel, context: MultiSequenceContext, parallel: int) -> None:
        self._model, self._context, self._views = model, context, LogitsView(context.pointer, model.vocabulary_size)
        self._untokenized = deque[SubmitRequest]()
        self._waiting: list[TokenizedRequest] = []
        self._slots: list[Slot | None] = [None] * parallel
        self._prefixes = PrefixCache(range(parallel, context.sequences))
        self._max_tokenized = max(2 * parallel, _MIN_AHEAD)
        self._prompt_steps = 0
        self._counts = _Counts()

    def set_pinned_prefix(self, tokens: Ints, evaluated: int, seconds: float) -> None:
        """Pin `tokens`, all in the first prefix sequence; `evaluated` of them took `seconds` s."""
        prefix = self._prefixes.prefixes[0]
        self._counts.prompt, self._counts.prompt_s = evaluated, seconds
        prefix.tokens, prefix.done, prefix.pinned = tokens, len(tokens), True

    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._untokenized or self._waiting or self._active)

    @property
    def progress(self) -> BatchProgress:
        """What has been done so far."""
        counts, waiting = self._counts, len(self._untokenized) + len(self._waiting)
        return BatchProgress(
            counts.prompt, counts.shared, counts.answer, counts.prompt_s, counts.answer_s, len(self._active), waiting
        )

    def add(self, request: SubmitRequest) -> None:
        """Queue a request."""
        self._untokenized.append(request)

    def step(self) -> Iterator[Finished | RecordStarted]:
        """Do one step of work. Raises RequestError if libllama fails."""
        yield from self._tokenize_ahead()
        yield from self._admit()
        prompts = self._choose_prompts()
        if prompts:
            yield from self._prefill(prompts)
        answers = sum(slot.is_decoding for slot in self._active)
        # While fewer than half of the slots decode, prompts go first, within limits: fuller batches decode cheaper.
        prompts_first = prompts and 2 * answers < len(self._active) and self._prompt_steps < _MAX_PROMPT_STEPS
        if answers and not prompts_first:
            yield from self._decode()

    # ------------------------------------------------------------------ which request comes next

    @property
    def _active(self) -> list[Slot]:
        return [slot for slot in self._slots if slot is not None]

    def _tokenize_ahead(self) -> Iterator[Finished | RecordStarted]:
        """Tokenize requests that come next: many at the start, a few per step while answers are decoded."""
        budget = _TOKENIZED_PER_STEP if any(slot.is_decoding for slot in self._active) else self._max_tokenized
        while self._untokenized and len(self._waiting) < self._max_tokenized and budget > 0:
            request, budget = self._untokenized.popleft(), budget - 1
            yield RecordStarted(request.request_id)
            try:
                self._waiting.append(tokenize_request(self._model, request, self._context.size))
            except RequestError as failure:
                failed = failure.failed
                yield RecordFailed(request.request_id, failed.kind, failed.message, failed.hint)

    def _admit(self) -> Iterator[RecordFailed]:
        """Give free sequences to waiting requests."""
        for number, slot in enumerate(self._slots):
            if slot is not None:
                continue
            request = self._next_request()
            if request is None:
                break
            self._waiting.remove(request)
            started = self._start(request, number)
            if isinstance(started, RecordFailed):
                yield started
            else:
                self._slots[number] = started
        if not self._waiting and not self._untokenized:
            self._compact_slots()

    def _next_request(self) -> TokenizedRequest | None:
        """The first request that need not wait for a shared prefix; the prefixes of the others are started."""
        for request in self._waiting:
            if self._prefixes.is_prefilling(request.text_prefix):
                continue
            length = self._shared_length(request)
            if not length:
                return request
            self._start_prefix(request.text_prefix, length)
        runs = self._active or any(prefix.is_prefilling for prefix in self._prefixes.prefixes)
        return self._waiting[0] if self._waiting and not runs else None

    def _shared_length(self, request: TokenizedRequest) -> int:
        """How much of a prompt is worth evaluating once for several requests; 0 if cached prefixes suffice."""
        if not self._prefixes.prefixes:
            return 0
        base = self._prefixes.longest(request.text_prefix)
        others = (other.text_prefix for other in self._waiting if other is not request)
        return best_shared_length(request.text_prefix, len(base.tokens) if base else 0, others)

    def _start_prefix(self, prompt: Ints, length: int) -> None:
        """Start to evaluate the first `length` tokens of `prompt` as a shared prefix, if a sequence is free."""
        base = self._prefixes.longest(prompt)
        prefix = self._prefixes.evict_candidate(base, [request.text_prefix for request in self._waiting])
        if prefix is None:
            return
        self._context.clear_sequence(prefix.sequence)
        prefix.tokens, prefix.done = prompt[:length], 0
        if base is not None:
            self._copy(base, prefix.sequence)
            prefix.done = len(base.tokens)
        self._prefixes.touch(prefix)

    def _start(self, request: TokenizedRequest, sequence: int) -> Slot | RecordFailed:
        """Start a request; its images, if any, are evaluated at once."""
        slot = Slot.start(self._model, request, sequence, self._context.size, self._views)
        prefix = self._prefixes.longest(request.text_prefix)
        if prefix is not None:
            self._copy(prefix, sequence)
            slot.done = slot.cached = len(prefix.tokens)
        return self._encode_images(slot) if request.media_items else slot

    def _encode_images(self, slot: Slot) -> Slot | RecordFailed:
        """Evaluate the images of `slot`. An image that cannot be used fails its own request, not the batch."""
        request, started, done_before = slot.request, time.perf_counter(), slot.done
        try:
            slot.done, slot.mrope_saved = prefill_images(
                self._context, self._model.vision, slot.sequence, request.tokens, request.media_items, slot.done
            )
        except RequestError as failure:
            failed = failure.failed
            if failed.kind not in _MEDIA_ERRORS:
                raise
            slot.close()
            self._context.clear_sequence(slot.sequence)
            return RecordFailed(request.submitted.request_id, failed.kind, failed.message, failed.hint)
        self._counts.prompt += slot.done - done_before
        self._counts.prompt_s += time.perf_counter() - started
        return slot

    def _copy(self, prefix: CachedPrefix, sequence: int) -> None:
        self._context.copy(prefix.sequence, sequence)
        self._counts.shared += len(prefix.tokens)
        self._prefixes.touch(prefix)

    def _compact_slots(self) -> None:
        """Near the end of a batch, move the last requests forward: libllama would split batches at empty sequences."""
        while None in self._slots:
            gap, last = self._slots.index(None), max(self._active, key=lambda slot: slot.sequence, default=None)
            if last is None or last.sequence < gap:
                break
            self._context.copy(last.sequence, gap)
            self._context.clear_sequence(last.sequence)
            self._slots[last.sequence], self._slots[gap] = None, last
            last.sequence = gap

    # ------------------------------------------------------------------ what is evaluated next

    def _choose_prompts(self) -> list[Slot | CachedPrefix]:
        """The neighboring sequences whose prompts give the largest batch of equally long parts."""
        has_answers = any(slot.is_decoding for slot in self._active)
        min_left = _PIGGYBACK_TOKENS if has_answers else 0
        jobs: list[Slot | CachedPrefix] = [slot for slot in self._active if slot.left > min_left]
        jobs += [prefix for prefix in self._prefixes.prefixes if prefix.is_prefilling]
        # Try every run of neighboring sequences. Its batch is limited by the shortest remaining prompt and by n_batch;
        # the run with the most tokens wins.
        best: tuple[int, int, int] = (0, 0, 0)
        for start in range(len(jobs)):
            shortest = self._context.n_batch
            for end in range(start, len(jobs)):
                if jobs[end].sequence != jobs[start].sequence + end - start:
                    break
                shortest = min(shortest, _tokens_left(jobs[end]))
                count = end - start + 1
                best = max(best, (count * min(shortest, self._context.n_batch // count), start, end + 1))
        return jobs[best[1] : best[2]]

    def _prefill(self, jobs: list[Slot | CachedPrefix]) -> Iterator[Finished]:
        """Evaluate the next tokens of these prompts, equally many of each."""
        started = time.perf_counter()
        count = min(self._context.n_batch // len(jobs), *map(_tokens_left, jobs))
        parts = [_next_item(job, count) for job in jobs]
        rows = self._context.evaluate(parts)
        for job in jobs:
            job.done += count
        self._prompt_steps += 1
        self._counts.prompt += count * len(jobs)
        self._counts.prompt_s += time.perf_counter() - started
        for job, row in zip(jobs, rows, strict=True):
            if isinstance(job, Slot) and job.is_decoding:
                yield from self._advance(job, row)

    def _decode(self) -> Iterator[Finished]:
        """Evaluate the next token of each answer, and in the same batch of each prompt that is nearly done."""
        started = time.perf_counter()
        slots = [slot for slot in self._active if slot.is_decoding or slot.left <= _PIGGYBACK_TOKENS]
        items = [
            (slot.sequence, slot.position, [slot.token], True) if slot.is_decoding else _next_item(slot, 1)
            for slot in slots
        ]
        rows = self._context.evaluate(items)
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
        self._counts.answer_s += time.perf_counter() - started

    def _advance(self, slot: Slot, row: int) -> Iterator[Finished]:
        done: Finished | None
        try:
            done = slot.on_logits(row)
        except RequestError as failure:  # a grammar that became too complex
            failed = failure.failed
            done = RecordFailed(slot.request.submitted.request_id, failed.kind, failed.message, failed.hint)
        if done is not None:
            slot.close()
            self._context.clear_sequence(slot.sequence)
            self._slots[slot.sequence] = None
            yield done


def _tokens_left(job: Slot | CachedPrefix) -> int:
    return job.left if isinstance(job, Slot) else len(job.tokens) - job.done


def _next_item(job: Slot | CachedPrefix, count: int) -> BatchItem:
    """The next `count` tokens of a prompt; logits are needed only after its last token."""
    if isinstance(job, CachedPrefix):
        return job.sequence, job.done, job.tokens[job.done : job.done + count], False
    tokens = job.request.tokens[job.done : job.done + count]
    return job.sequence, job.position, tokens, job.left == count
