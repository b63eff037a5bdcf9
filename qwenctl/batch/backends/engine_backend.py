"""The backend that answers a batch with the engine on this machine, and restarts it when it crashes or hangs.

Records come in, answers go out; the model is loaded when the first record comes. Which record caused a crash is not
known: those that were started are retried one at a time, and one that crashes the engine alone has failed.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from quantize.formatting import format_duration
from qwenctl.batch.backends.backend import BackendStats
from qwenctl.batch.records import Answer, Record, RecordError, record_seed
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.media_files import MediaSource, refuse_media, resolve_message_media
from qwenctl.models.sampling import resolve_sampling
from qwenctl.protocol.batch import (
    BatchEvent,
    BatchProgress,
    BatchRequest,
    BatchStarted,
    RecordDone,
    RecordFailed,
    RecordStarted,
    StartBatch,
    SubmitRequest,
)
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, may_think
from qwenctl.tools.call_grammar import call_grammar
from qwenctl.tools.calls import answer_with_calls

# One batch of prompt tokens takes minutes on a slow machine, and longer if weights are paged in from disk.
MAX_SILENCE_S = 900.0
_MIN_WORK = 0.01  # share of one core's time; even waiting for a disk takes more
_MAX_CRASHES = 5  # in a row, without an answer in between
_CRASHES = (ExitCode.ENGINE_CRASHED, ExitCode.NO_MEMORY)
_OPENING_S = 1.0  # how often to check for a hang while the batch starts
_WINDOW = 4  # queued records per slot


class HangDetector:
    """Detects an engine that hangs: no event and almost no CPU time within `max_silence_s` seconds."""

    def __init__(self, max_silence_s: float = MAX_SILENCE_S) -> None:
        self._max_silence_s = max_silence_s
        self._seconds = self._worked = 0.0

    def reset(self) -> None:
        """Start to measure again: an event has come."""
        self._seconds = 0.0

    def is_hang(self, seconds: float, work_seconds: Callable[[], float]) -> bool:
        """Whether the engine hangs after `seconds` more without an event; `work_seconds` returns its CPU time."""
        if not self._seconds:
            self._worked = work_seconds()
        self._seconds += seconds
        if self._seconds < self._max_silence_s:
            return False
        self._seconds = 0.0
        return work_seconds() - self._worked < _MIN_WORK * self._max_silence_s


class BatchEngine(Protocol):
    """The part of the engine that a batch needs; `engine.client.Engine` implements it."""

    def send(self, request: BatchRequest) -> None:
        """Send a batch request; does not wait for a reply."""

    def receive(self, timeout_s: float | None) -> BatchEvent | None:
        """The next event; None if none comes within `timeout_s` seconds."""

    def cpu_seconds(self) -> float:
        """The CPU time of the engine process so far."""

    def close(self) -> None:
        """Stop the engine process."""


@dataclass(frozen=True)
class EngineBackendConfig:
    """How to start the engine: `start` returns a new one with the model loaded; `close` is called at the end."""

    start: Callable[[], tuple[BatchEngine, ModelInfo]]
    start_batch: StartBatch
    seed: int
    notify: Callable[[str], None]
    media_source: MediaSource | None = None
    close: Callable[[], None] = lambda: None
    max_silence_s: float = MAX_SILENCE_S


class EngineBackend:
    """Answers records with an engine, and keeps track of what it is working on."""

    def __init__(self, config: EngineBackendConfig) -> None:
        self._config = config
        self._engine: BatchEngine | None = None
        self._loaded: ModelInfo | None = None
        self._new = deque[int]()  # record numbers, not sent yet
        self._suspects = deque[int]()  # started before a crash: to be sent one at a time
        self._records: dict[int, Record] = {}
        self._media: dict[int, tuple[Media, ...]] = {}  # of records that are being answered
        self._sent: set[int] = set()
        self._started: set[int] = set()
        self._alone: int | None = None
        self._crashes = 0
        self._hang_detector = HangDetector(config.max_silence_s)
        self._outcomes: list[tuple[int, Answer | RecordError]] = []
        self._before, self._now = BackendStats(), BackendStats()
        self._batch_started: BatchStarted | None = None

    @property
    def model(self) -> str:
        """The model's name; "" until it is loaded."""
        return self._loaded.name if self._loaded is not None else ""

    @property
    def queue_depth(self) -> int:
        """Enough records for the engine to group them by common prefixes."""
        parallel = (
            self._batch_started.parallel if self._batch_started is not None else self._config.start_batch.max_parallel
        )
        return max(64, _WINDOW * parallel)

    @property
    def stats(self) -> BackendStats:
        """The sums over all engines so far: those that crashed, and the current one."""
        counts = {
            name: getattr(self._before, name) + getattr(self._now, name)
            for name in ("prompt_tokens", "shared_tokens", "answer_tokens", "prompt_s", "answer_s")
        }
        return dataclasses.replace(self._now, **counts)

    def submit(self, number: int, record: Record) -> None:
        """Queue a record for answering."""
        self._records[number] = record
        self._new.append(number)

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """The outcomes since the last call. Raises QwenctlError if the engine does not start, or keeps crashing."""
        try:
            self._send()
            event = self._receive(self._engine, timeout_s) if self._engine is not None and self._sent else None
            while event is not None and self._engine is not None:
                self._handle(event)
                event = self._engine.receive(0)
        except QwenctlError as error:
            if error.code not in _CRASHES:
                raise
            self._recover(error)
        found, self._outcomes = self._outcomes, []
        return found

    def close(self) -> None:
        """Stop the engine, and clean up its temporary files."""
        self._end_engine()
        self._config.close()

    def _end_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _send(self) -> None:
        """Send new records; after a crash, first its possible causes, one at a time."""
        if self._alone is not None or not (self._new or self._suspects):
            return
        engine, loaded = self._open() if self._engine is None or self._loaded is None else (self._engine, self._loaded)
        if self._suspects:
            self._alone = self._suspects.popleft()
            self._hand_over(engine, loaded, self._alone)
            return
        while self._new:
            self._hand_over(engine, loaded, self._new.popleft())

    def _hand_over(self, engine: BatchEngine, loaded: ModelInfo, number: int) -> None:
        record = self._records[number]
        params = record.params
        try:
            messages = self._resolve_media(number, record)
            grammar = call_grammar(params.tools, params.tool_choice) or params.grammar
        except QwenctlError as error:
            self._finish(number, RecordError("media", error.message, error.hint))
            return
        except ValueError as error:
            self._finish(number, RecordError("setting", str(error)))
            return
        sampling = resolve_sampling(params.sampling, may_think(params.think, params.think_budget), loaded)
        sampling = dataclasses.replace(sampling, seed=record_seed(record, self._config.seed))
        self._sent.add(number)
        engine.send(
            SubmitRequest(
                request_id=number,
                messages=messages,
                enable_thinking=params.think,
                sampling=sampling,
                max_tokens=params.max_tokens,
                think_budget=params.think_budget,
                grammar=grammar,
                json_schema=params.json_schema,
                tools=params.tools,
                stop=params.stop,
                template_variables=dict(params.template_variables),
                logit_bias=params.logit_bias,
                logprobs=params.logprobs,
            ),
        )

    def _resolve_media(self, number: int, record: Record) -> tuple[Message, ...]:
        """The messages with their media resolved to files. Raises QwenctlError if a file cannot be read or fetched."""
        source = self._config.media_source
        messages = tuple(
            resolve_message_media(one, source.resolve if source else refuse_media) for one in record.messages
        )
        self._media[number] = tuple(media for message in messages for media in message.media)
        return messages

    def _open(self) -> tuple[BatchEngine, ModelInfo]:
        self._batch_started = None
        self._engine, self._loaded = engine, loaded = self._config.start()
        engine.send(self._config.start_batch)
        self._hang_detector.reset()  # forget that of an engine that crashed
        event = None
        while event is None:
            event = self._receive(engine, _OPENING_S)
        self._batch_started = event if isinstance(event, BatchStarted) else None
        return engine, loaded

    def _receive(self, engine: BatchEngine, timeout_s: float) -> BatchEvent | None:
        """The next event; None if none comes within `timeout_s` seconds. Raises QwenctlError if the engine hangs."""
        event = engine.receive(timeout_s)
        if event is not None:
            self._hang_detector.reset()
        elif self._hang_detector.is_hang(timeout_s, engine.cpu_seconds):
            minutes = format_duration(self._config.max_silence_s)
            raise QwenctlError(
                f"the model engine hangs: no output and no CPU time in {minutes}", "", ExitCode.ENGINE_CRASHED
            )
        return event

    def _handle(self, event: BatchEvent) -> None:
        match event:
            case RecordStarted():
                self._started.add(event.request_id)
            case RecordDone():
                self._finish(event.request_id, self._answer(event))
            case RecordFailed():
                self._finish(event.request_id, RecordError(event.kind, event.message, event.hint))
            case BatchProgress():
                parallel = self._batch_started.parallel if self._batch_started is not None else 0
                self._now = BackendStats(
                    prompt_tokens=event.prompt_tokens,
                    shared_tokens=event.shared_tokens,
                    answer_tokens=event.answer_tokens,
                    prompt_s=event.prompt_s,
                    answer_s=event.answer_s,
                    active=event.active,
                    parallel=parallel,
                    waiting=event.waiting,
                )

    def _finish(self, number: int, outcome: Answer | RecordError) -> None:
        self._sent.discard(number)
        self._started.discard(number)
        self._alone = None if number == self._alone else self._alone
        if isinstance(outcome, Answer):
            self._crashes = 0
        del self._records[number]
        media = self._media.pop(number, ())
        needed = {one.file for others in self._media.values() for one in others}
        for one in media:
            if self._config.media_source is not None and one.file not in needed:
                self._config.media_source.remove(one)
        self._outcomes.append((number, outcome))

    def _answer(self, done: RecordDone) -> Answer:
        tools = self._records[done.request_id].params.tools
        message, _ = answer_with_calls(done.text, done.thinking, done.calls, done.reason, tools, done.control_offsets)
        usage = {
            "prompt_tokens": done.usage.prompt_tokens,
            "completion_tokens": done.usage.thinking_tokens + done.usage.answer_tokens,
            "thinking_tokens": done.usage.thinking_tokens,
        }
        stats: dict[str, Any] = {
            "shared_tokens": done.usage.cached_tokens,
            **{name: round(value, 6) for name, value in dataclasses.asdict(done.timings).items()},
        }
        reason = "tool_calls" if message.tool_calls else done.reason
        return Answer(message.content, done.thinking, message.tool_calls, reason, usage, stats, done.logprobs)

    def _recover(self, error: QwenctlError) -> None:
        """Close the crashed engine, and queue its records again: those that it had started become suspects."""
        self._end_engine()
        self._before, self._now = self.stats, BackendStats()
        self._crashes += 1
        if self._batch_started is None or self._crashes > _MAX_CRASHES:  # it crashes at start, or over and over
            raise error
        if self._alone is not None:
            self._finish(self._alone, RecordError("crash", error.message, error.hint))
        begun = sorted(self._started)
        self._suspects.extend(begun)
        self._new.extendleft(sorted(self._sent - set(begun), reverse=True))
        if self._sent:
            trying = f", {len(begun)} records one at a time" if len(begun) > 1 else ""
            self._config.notify(f"{error.message}; trying again{trying}")
        self._sent.clear()
        self._started.clear()
