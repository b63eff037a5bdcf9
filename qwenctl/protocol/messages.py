"""The messages between the program and its engine.

The engine runs in a child process (see `client` and `worker`); what crosses the boundary are the frozen dataclasses
below, as lines of JSON (see `codec`). Of pipes, of llama.cpp and of a terminal nothing is known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qwenctl.protocol.base import Event, Notification, Reply, Request
from qwenctl.protocol.media import Media

Channel = Literal["thinking", "answer", "call"]  # call: all from the first call of a function on
FinishReason = Literal["stop", "length", "context", "loop", "cancelled"]
ThinkingEnd = Literal["model", "budget", "loop"]
Tools = tuple[dict[str, Any], ...]  # functions in OpenAI's form: {"type": "function", "function": {"name": …, …}}


@dataclass(frozen=True)
class ToolCall:
    """A function that the model calls; the values of `arguments` are what JSON can hold."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `thinking` is what an assistant thought before `content`.

    `tool_calls` follow an assistant's `content`; a turn of the role "tool" holds the result of one of them, in order.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    media: tuple[Media, ...] = ()  # that are seen in a user's turn


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen, with llama.cpp's names. `seed` None draws one; `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 20
    top_p: float = 0.95
    min_p: float = 0.0
    presence_penalty: float = 1.5
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = -1  # the whole answer: what the published penalties were measured with
    seed: int | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer. `cached` of the prompt's tokens did not have to be evaluated."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    context_used: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of those that were drafted


@dataclass(frozen=True)
class Timings:
    """Seconds of one answer: reading the prompt, until the first token, and generating."""

    prompt_s: float = 0.0
    first_token_s: float = 0.0
    generate_s: float = 0.0


@dataclass(frozen=True)
class PrefillProgress(Event):
    """`done` of `total` prompt tokens evaluated in `seconds` (`total` leaves out those that the cache held)."""

    done: int
    total: int
    seconds: float = 0.0


@dataclass(frozen=True)
class TextDelta(Event):
    """A piece of text of at least one character, as soon as it is whole UTF-8, and how many tokens it is made of."""

    text: str
    channel: Channel
    tokens: int = 1


@dataclass(frozen=True)
class GenerationFinished(Reply):
    """The end of an answer. `thinking_end` is what closed the thinking: the model, its budget, or a loop in it."""

    reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    thinking_end: ThinkingEnd = "model"


@dataclass(frozen=True)
class PrefixReady(Reply):
    """The first `tokens` of `total` are there now, and on the disk unless there was an `error`."""

    tokens: int
    total: int
    error: str = ""


@dataclass(frozen=True)
class Restored(Reply):
    """`tokens` of a kept state are there again; none, and the `reason`, if it could not be used."""

    tokens: int
    reason: str = ""


@dataclass(frozen=True)
class TokenCount(Reply):
    """The number of tokens of a text."""

    tokens: int


@dataclass(frozen=True)
class BenchmarkResult(Reply):
    """What was measured took so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Flushed(Reply):
    """All is on the disk, or the `error` that was in the way."""

    error: str = ""


@dataclass(frozen=True)
class EngineStats(Reply):
    """The state of the engine between answers."""

    context_tokens: int
    context_used: int
    resident_bytes: int
    snapshots: int = 0
    snapshot_bytes: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True)
class RequestFailed(Reply):
    """A request that could not be done. `kind` names the row of the error table in `qwenctl.errors`."""

    kind: Literal["model", "memory", "template", "context", "setting", "cancelled", "request", "media", "mmproj"]
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Generate(Request[PrefillProgress | TextDelta | GenerationFinished]):
    """Continue the conversation."""

    messages: tuple[Message, ...]
    enable_thinking: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1  # -1: until the model ends its turn or the context is full
    think_budget: int = -1  # tokens of thinking after which it is closed; -1: no limit
    grammar: str = ""  # GBNF that the answer must follow, not the thinking
    json_schema: str = ""  # the same, as a JSON schema
    tools: Tools = ()  # the functions that may be called
    state_path: str = ""  # the file for what has been read, of a prompt that takes long


@dataclass(frozen=True)
class PrefillPrefix(Request[PrefillProgress | PrefixReady]):
    """Read what all prompts have in common that begin with these messages, and keep the state in the file `keep`.

    It may be cancelled; what has been read is kept then too.
    """

    messages: tuple[Message, ...]
    keep: str
    tools: Tools = ()


@dataclass(frozen=True)
class Restore(Request[Restored]):
    """Go on from the state in the file `path`."""

    path: str


@dataclass(frozen=True)
class Count(Request[TokenCount]):
    """How many tokens is `text`?"""

    text: str


@dataclass(frozen=True)
class CountPrompt(Request[TokenCount]):
    """How many tokens would the prompt for the next answer be?"""

    messages: tuple[Message, ...]
    think: bool = True
    tools: Tools = ()


@dataclass(frozen=True)
class RunBenchmark(Request[BenchmarkResult]):
    """Evaluate made-up tokens: `prompt` at once, then `generate` one by one; `depth` before them do not count.

    What the context held is forgotten.
    """

    prompt: int = 0
    generate: int = 0
    depth: int = 0


@dataclass(frozen=True)
class Flush(Request[Flushed]):
    """Wait until all that is to be kept is on the disk."""


@dataclass(frozen=True)
class Stats(Request[EngineStats]):
    """Ask for the state of the engine between answers."""


@dataclass(frozen=True)
class WarmPrefix(Notification):
    """Read ahead what the next prompt will begin with, until the next request comes."""

    messages: tuple[Message, ...]
    think: bool = True
    keep: str = ""  # the file for the state at its end
    tools: Tools = ()


@dataclass(frozen=True)
class Cancel(Notification):
    """Stop what runs: a load is answered by RequestFailed, a generation by GenerationFinished(reason="cancelled")."""


@dataclass(frozen=True)
class Close(Notification):
    """End the engine."""
