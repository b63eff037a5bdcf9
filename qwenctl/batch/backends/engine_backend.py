"""The engine on this machine as what answers a batch; when it crashes or hangs, it is started again.

Which record it crashed on is not known: those that it had begun are tried again one at a time, and one that it crashes
on alone has failed. Records come in, answers go out; the model is loaded when the first record comes.
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
from qwenctl.protocol.messages import Message
from qwenctl.tools.calls import answer_with_calls

LONGEST_S = 900.0  # a batch of a prompt takes minutes on a slow machine, and more where weights come from a disk
_LEAST_WORK = 0.01  # of one core's time; even waiting for a disk takes more


class HangDetector:
    """The time since the engine said something last; `longest_s` without work mean that it hangs."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._seconds = self._worked = 0.0

    def end(self) -> None:
        """It has said something."""
        self._seconds = 0.0

    def is_hang(self, seconds: float, work_seconds: Callable[[], float]) -> bool:
        """Whether it hangs, now that `seconds` more have passed; `work_seconds` is its processor time so far."""
        if not self._seconds:
            self._worked = work_seconds()
        self._seconds += seconds
        if self._seconds < self._longest_s:
            return False
        self._seconds = 0.0
        return work_seconds() - self._worked < _LEAST_WORK * self._longest_s


_MOST_CRASHES = 5  # on end, without one answer between
_CRASHES = (ExitCode.ENGINE_CRASHED, ExitCode.NO_MEMORY)
_OPENING_S = 1.0  # after so long without a word it is looked at again
_WINDOW = 4  # records at hand, for each one that is answered


class BatchEngine(Protocol):
    """What is needed of an engine; `engine.client.Engine` is the real one."""

    def send(self, request: BatchRequest) -> None:
        """Send a request of a batch, and wait for nothing."""

    def receive(self, timeout_s: float | None) -> BatchEvent | None:
        """The next event; None if none comes in that time."""

    def cpu_seconds(self) -> float:
        """The processor time that it has taken so far."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class EngineBackendConfig:
    """How the engine is made: `start` gives a new one with the model in it. `close` is called at the end."""

    start: Callable[[], tuple[BatchEngine, ModelInfo]]
    opening: StartBatch
    seed: int
    tell: Callable[[str], None]
    pictures: MediaSource | None = None
    close: Callable[[], None] = lambda: None
    longest_silence_s: float = LONGEST_S


class EngineBackend:
    """Answers with an engine."""

    def __init__(self, setup: EngineBackendConfig) -> None:
        self._setup = setup
        self._engine: BatchEngine | None = None
        self._loaded: ModelInfo | None = None
        self._new = deque[int]()  # not sent yet
        self._suspects = deque[int]()  # to be sent alone
        self._records: dict[int, Record] = {}
        self._media: dict[int, tuple[Media, ...]] = {}  # of records that are being answered
        self._sent: set[int] = set()
        self._started: set[int] = set()
        self._alone: int | None = None
        self._crashes = 0
        self._silence = HangDetector(setup.longest_silence_s)
        self._found: list[tuple[int, Answer | RecordError]] = []
        self._before, self._now = BackendStats(), BackendStats()
        self.opened: BatchStarted | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return self._loaded.name if self._loaded is not None else ""

    @property
    def queue_depth(self) -> int:
        """Enough to choose from by common beginnings."""
        parallel = self.opened.parallel if self.opened is not None else self._setup.opening.max_parallel
        return max(64, _WINDOW * parallel)

    @property
    def stats(self) -> BackendStats:
        """Of all engines so far."""
        counts = {
            name: getattr(self._before, name) + getattr(self._now, name)
            for name in ("prompt_tokens", "shared_tokens", "answer_tokens", "prompt_s", "answer_s")
        }
        return dataclasses.replace(self._now, **counts)

    def submit(self, number: int, record: Record) -> None:
        """Take a record."""
        self._records[number] = record
        self._new.append(number)

    def collect(self, timeout_s: float) -> Sequence[tuple[int, Answer | RecordError]]:
        """Answers since the last call. Raises QwenctlError when the engine can do nothing at all."""
        try:
            self._send()
            event = self._hear(self._engine, timeout_s) if self._engine is not None and self._sent else None
            while event is not None and self._engine is not None:
                self._note(event)
                event = self._engine.receive(0)
        except QwenctlError as error:
            if error.code not in _CRASHES:
                raise
            self._recover(error)
        found, self._found = self._found, []
        return found

    def close(self) -> None:
        """End the engine, and forget what was made for it."""
        self._end_engine()
        self._setup.close()

    def _end_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _send(self) -> None:
        """Hand over what is new; after a crash, those that may be its cause come first, one at a time."""
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
        try:
            messages = self._with_pictures(number, record)
        except QwenctlError as error:
            self._finish(number, RecordError("media", error.message, error.hint))
            return
        wanted = record.wanted
        sampling = resolve_sampling(wanted.sampling, wanted.think, loaded)
        sampling = dataclasses.replace(sampling, seed=record_seed(record, self._setup.seed))
        self._sent.add(number)
        engine.send(
            SubmitRequest(
                number, messages, wanted.think, sampling, wanted.max_tokens, wanted.think_budget,
                wanted.grammar, wanted.json_schema, wanted.tools,
            )
        )  # fmt: skip

    def _with_pictures(self, number: int, record: Record) -> tuple[Message, ...]:
        """The messages, and in them the pictures that were named. Raises QwenctlError."""
        source = self._setup.pictures
        messages = tuple(
            resolve_message_media(one, source.resolve if source else refuse_media) for one in record.messages
        )
        self._media[number] = tuple(media for message in messages for media in message.media)
        return messages

    def _open(self) -> tuple[BatchEngine, ModelInfo]:
        self.opened = None
        self._engine, self._loaded = engine, loaded = self._setup.start()
        engine.send(self._setup.opening)
        self._silence.end()  # that of another engine, before it crashed
        event = None
        while event is None:
            event = self._hear(engine, _OPENING_S)
        self.opened = event if isinstance(event, BatchStarted) else None
        return engine, loaded

    def _hear(self, engine: BatchEngine, timeout_s: float) -> BatchEvent | None:
        """The next event; None if none comes in that time. An engine that hangs is as good as crashed."""
        event = engine.receive(timeout_s)
        if event is not None:
            self._silence.end()
        elif self._silence.is_hang(timeout_s, engine.cpu_seconds):
            minutes = format_duration(self._setup.longest_silence_s)
            raise QwenctlError(
                f"the model engine hangs: no output and no CPU time in {minutes}", "", ExitCode.ENGINE_CRASHED
            )
        return event

    def _note(self, event: BatchEvent) -> None:
        match event:
            case RecordStarted():
                self._started.add(event.request_id)
            case RecordDone():
                self._finish(event.request_id, self._answer(event))
            case RecordFailed():
                self._finish(event.request_id, RecordError(event.kind, event.message, event.hint))
            case BatchProgress():
                parallel = self.opened.parallel if self.opened is not None else 0
                self._now = BackendStats(
                    event.prompt_tokens, event.shared_tokens, event.answer_tokens, event.prompt_s, event.answer_s,
                    event.active, parallel, event.waiting,
                )  # fmt: skip

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
            if self._setup.pictures is not None and one.file not in needed:
                self._setup.pictures.remove(one)
        self._found.append((number, outcome))

    def _answer(self, done: RecordDone) -> Answer:
        tools = self._records[done.request_id].wanted.tools
        message, _ = answer_with_calls(done.text, done.thinking, done.calls, done.reason, tools)
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
        return Answer(message.content, done.thinking, message.tool_calls, reason, usage, stats)

    def _recover(self, error: QwenctlError) -> None:
        """Close the engine; find out what to do with the records that it had."""
        self._end_engine()
        self._before, self._now = self.stats, BackendStats()
        self._crashes += 1
        if self.opened is None or self._crashes > _MOST_CRASHES:  # it never got as far as a record, or never further
            raise error
        if self._alone is not None:
            self._finish(self._alone, RecordError("crash", error.message, error.hint))
        begun = sorted(self._started)
        self._suspects.extend(begun)
        self._new.extendleft(sorted(self._sent - set(begun), reverse=True))
        if self._sent:
            trying = f", {len(begun)} records one at a time" if len(begun) > 1 else ""
            self._setup.tell(f"{error.message}; trying again{trying}")
        self._sent.clear()
        self._started.clear()
