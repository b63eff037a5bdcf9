"""The messages of a batch, in which many requests are answered concurrently.

After `StartBatch` the engine accepts `SubmitRequest` at any time until `EndBatch`, and sends events as they happen, in
any order. The program gives each request an ID, which its events carry. Scheduling is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qwenctl.protocol.base import EngineInput, Event
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import (
    FinishReason,
    Generate,
    Message,
    Sampling,
    ThinkingEnd,
    Timings,
    TokenLogprob,
    Tools,
    Usage,
)

RECORD_TOKENS = 8192  # default context of one request, in tokens


class BatchRequest(EngineInput):
    """A message of a batch to the engine; it may be sent while the engine is busy."""


class BatchEvent(Event):
    """An event of a batch; events of different requests come in any order."""


@dataclass(frozen=True)
class StartBatch(BatchRequest):
    """Create a context for `parallel` concurrent requests (0: the fastest number measured, up to `max_parallel`).

    `settings.context_tokens` is the context of one request. With `share_prefixes`, a prefix that several prompts share
    is evaluated once. The prefix that `prefix_messages` give is evaluated first, and its state is saved in the file
    `state_path` ("": not saved). Answered by BatchStarted or RequestFailed.
    """

    settings: LoadParams
    parallel: int = 0
    max_parallel: int = 64
    share_prefixes: bool = True
    prefix_messages: tuple[Message, ...] = ()
    state_path: str = ""


@dataclass(frozen=True)
class SubmitRequest(BatchRequest):
    """Generate the answer to one conversation; the fields are those of `Generate`.

    The answer, but not the thinking or a call, ends before the first of the texts in `stop`.
    Answered by RecordStarted, then RecordDone or RecordFailed, all with the same `request_id`.
    """

    request_id: int
    messages: tuple[Message, ...]
    enable_thinking: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1
    think_budget: int = -1
    grammar: str = ""
    json_schema: str = ""
    tools: Tools = ()
    stop: tuple[str, ...] = ()
    template_variables: dict[str, Any] = field(default_factory=dict)
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    @property
    def request(self) -> Generate:
        """The same parameters as a `Generate` request."""
        return Generate(
            messages=self.messages,
            enable_thinking=self.enable_thinking,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            think_budget=self.think_budget,
            grammar=self.grammar,
            json_schema=self.json_schema,
            tools=self.tools,
            template_variables=self.template_variables,
            logit_bias=self.logit_bias,
            logprobs=self.logprobs,
        )


@dataclass(frozen=True)
class EndBatch(BatchRequest):
    """End the batch: no more requests follow, and those still running are dropped."""


@dataclass(frozen=True)
class BatchStarted(BatchEvent):
    """The context holds `parallel` requests of `context_tokens` each; `rates` are tokens/s by number of requests."""

    parallel: int
    context_tokens: int
    rates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordStarted(BatchEvent):
    """Sent before work on a request starts, so that a crash of the engine can be attributed to it."""

    request_id: int


@dataclass(frozen=True)
class RecordDone(BatchEvent):
    """A complete answer: its text, the thinking before it, and its tool calls as the model wrote them.

    `control_offsets` are those of `GenerationFinished`, `logprobs` the tokens of the text if asked for.
    """

    request_id: int
    text: str
    thinking: str
    calls: str
    reason: FinishReason
    usage: Usage
    timings: Timings
    thinking_end: ThinkingEnd = "model"
    control_offsets: tuple[int, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class RecordFailed(BatchEvent):
    """A request that cannot be answered; the others go on. `kind` is one of those of `RequestFailed`."""

    request_id: int
    kind: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class BatchProgress(BatchEvent):
    """Totals so far: prompt tokens evaluated, prompt tokens copied from a shared prefix, and answer tokens generated.

    `prompt_s` and `answer_s` are the seconds spent on prompts and answers; `active` requests are running, `waiting`
    requests have not started.
    """

    prompt_tokens: int
    shared_tokens: int
    answer_tokens: int
    prompt_s: float
    answer_s: float
    active: int
    waiting: int
