"""The messages of a batch: many records that are answered together.

After `StartBatch` the engine takes `SubmitRequest` at any time, and sends events in whatever order they happen, until
`EndBatch`. Records are known by the numbers that the program gives them. Like `messages`, this module knows the shape
of the messages alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qwenctl.protocol.base import EngineInput, Event
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import FinishReason, Generate, Message, Sampling, ThinkingEnd, Timings, Tools, Usage

RECORD_TOKENS = 8192  # the room of one record, if nothing is said


class BatchRequest(EngineInput):
    """What is sent of a batch, while the engine works or not."""


class BatchEvent(Event):
    """What the engine sends of a batch, in whatever order it happens."""


@dataclass(frozen=True)
class StartBatch(BatchRequest):
    """Make room for `parallel` records at once (0: as many as measuring finds best, at most `max_parallel`).

    `settings.context_tokens` is the room of one record. With `share_prefixes`, a beginning that several prompts have in
    common is evaluated once. With `prefix_messages`, what all prompts that begin with them have in common is evaluated
    first, and its state kept in the file `keep`. Answered by BatchStarted or RequestFailed.
    """

    settings: LoadParams
    parallel: int = 0
    max_parallel: int = 64
    share_prefixes: bool = True
    prefix_messages: tuple[Message, ...] = ()
    keep: str = ""


@dataclass(frozen=True)
class SubmitRequest(BatchRequest):
    """Answer one conversation; the fields are those of `Generate`.

    Answered by RecordStarted, then RecordDone or RecordFailed.
    """

    number: int
    messages: tuple[Message, ...]
    think: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    think_budget: int = -1
    grammar: str = ""
    json_schema: str = ""
    tools: Tools = ()

    @property
    def request(self) -> Generate:
        """The same as a request of its own."""
        return Generate(
            self.messages, self.think, self.sampling, self.max_tokens, self.think_budget, self.grammar,
            self.json_schema, self.tools,
        )  # fmt: skip


@dataclass(frozen=True)
class EndBatch(BatchRequest):
    """No more records come, and those that run are no matter any more."""


@dataclass(frozen=True)
class BatchStarted(BatchEvent):
    """Room for `parallel` records of `context_tokens` each; `rates` are the tokens/s measured, by number of records."""

    parallel: int
    context_tokens: int
    rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordStarted(BatchEvent):
    """From here on it may be this record that the engine fails on."""

    number: int


@dataclass(frozen=True)
class RecordDone(BatchEvent):
    """A whole answer: its text, what was thought before it, and its calls as the model wrote them."""

    number: int
    text: str
    thinking: str
    calls: str
    reason: FinishReason
    usage: Usage
    timings: Timings
    thinking_end: ThinkingEnd = "model"


@dataclass(frozen=True)
class RecordFailed(BatchEvent):
    """A record that cannot be answered; the others can. `kind` is one of those of `RequestFailed`."""

    number: int
    kind: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class BatchProgress(BatchEvent):
    """What was done so far: tokens of prompts that were evaluated, or copied instead, and tokens of answers.

    `prompt_s` and `answer_s` are the seconds that went into each; `active` records run, `waiting` ones do not yet.
    """

    prompt_tokens: int
    shared_tokens: int
    answer_tokens: int
    prompt_s: float
    answer_s: float
    active: int
    waiting: int
