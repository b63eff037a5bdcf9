"""The messages between the program and its engine.

The engine runs in a child process (see `client` and `worker`). The frozen dataclasses below cross the boundary as lines
of JSON (see `codec`). Pipes, llama.cpp and the terminal are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qwenctl.protocol.base import Event, Notification, Reply, Request
from qwenctl.protocol.media import Media

Channel = Literal["thinking", "answer", "call"]  # call: everything from the first tool call on
FinishReason = Literal["stop", "length", "context", "loop", "cancelled"]
ThinkingEnd = Literal["model", "budget", "loop"]
Tools = tuple[dict[str, Any], ...]  # functions in OpenAI's format: {"type": "function", "function": {"name": …, …}}


# What a request itself tells a chat template: no other variable has one of these names.
OWN_TEMPLATE_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "enable_thinking"})


def may_think(enable_thinking: bool, think_budget: int) -> bool:
    """Whether a model thinks before its answer: with a budget of 0 tokens it does not."""
    return enable_thinking and think_budget != 0


@dataclass(frozen=True)
class ToolCall:
    """A call of the function `name` by the model; the values of `arguments` are JSON values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `thinking` is the assistant's reasoning before `content`.

    `tool_calls` follow an assistant's `content`; each turn with the role "tool" is the result of one call, in order.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    media: tuple[Media, ...] = ()  # only in a user's turn


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, with llama.cpp's names. A `seed` of None is drawn at random; `temperature` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 20
    top_p: float = 0.95
    min_p: float = 0.0
    presence_penalty: float = 1.5
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = -1  # the whole answer, as for the penalties that the model cards recommend
    seed: int | None = None


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer. `cached_tokens` of the prompt were reused instead of evaluated."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    context_used: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0  # of the drafted tokens


@dataclass(frozen=True)
class Timings:
    """Durations of one answer in seconds: prefill, time to the first token, and generation."""

    prompt_s: float = 0.0
    first_token_s: float = 0.0
    generate_s: float = 0.0


@dataclass(frozen=True)
class PrefillProgress(Event):
    """`done` of `total` prompt tokens were evaluated in `seconds`; `total` does not include cached tokens."""

    done: int
    total: int
    seconds: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token with the natural logarithm of its probability, and the most likely tokens in its place.

    `bytes` are those of its text, None for a control token, whose name `token` then is. A token that is only a part of
    a character has U+FFFD in `token`.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class TextDelta(Event):
    """New text of at least one character, sent once it is complete UTF-8, and the number of `tokens` it consists of.

    `logprobs` are these tokens, if the request asks for them and the text is that of the answer.
    """

    text: str
    channel: Channel
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class GenerationFinished(Reply):
    """The end of an answer. `thinking_end` says what ended the thinking: the model, its budget, or a repetition.

    `control_offsets` are the indices, in the text of the channel "call", of each <tool_call> and </tool_call> that is a
    control token, not ordinary tokens that spell one; None: not known.
    """

    reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    thinking_end: ThinkingEnd = "model"
    control_offsets: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PrefixReady(Reply):
    """The first `tokens` of `total` are evaluated, and saved on disk unless there was an `error`."""

    tokens: int
    total: int
    error: str = ""


@dataclass(frozen=True)
class Restored(Reply):
    """`tokens` of a saved state were restored; 0, and the `reason`, if the state could not be used."""

    tokens: int
    reason: str = ""


@dataclass(frozen=True)
class TokenCount(Reply):
    """The number of tokens of a text."""

    tokens: int


@dataclass(frozen=True)
class BenchmarkResult(Reply):
    """The duration of the benchmark in seconds."""

    seconds: float


@dataclass(frozen=True)
class Flushed(Reply):
    """All states are on disk; if not, `error` says why."""

    error: str = ""


@dataclass(frozen=True)
class EngineStats(Reply):
    """Context, memory and draft statistics of the engine between two answers; sizes in bytes or tokens."""

    context_tokens: int
    context_used: int
    resident_bytes: int
    snapshots: int = 0
    snapshot_bytes: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True)
class RequestFailed(Reply):
    """A request failed. `kind` selects the exit code in the table of `qwenctl.errors`."""

    kind: Literal["model", "memory", "template", "context", "setting", "cancelled", "request", "media", "mmproj"]
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Generate(Request[PrefillProgress | TextDelta | GenerationFinished]):
    """Generate the next answer of a conversation."""

    messages: tuple[Message, ...]
    enable_thinking: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = -1  # -1: no limit but the context; 0: the prompt is evaluated, nothing is generated
    think_budget: int = -1  # maximum tokens of thinking; -1: no limit; 0: no thinking
    grammar: str = ""  # GBNF grammar for the answer; the thinking is not constrained
    json_schema: str = ""  # the same constraint as a JSON schema
    tools: Tools = ()  # the functions that the model may call
    state_path: str = ""  # file for states saved during a long prefill
    template_variables: dict[str, Any] = field(default_factory=dict)  # more variables for the chat template
    logit_bias: tuple[tuple[int, float], ...] = ()  # what is added to the logits of tokens, by id, before all else
    logprobs: int | None = None  # how many alternatives to report for each token of the answer; None: no probabilities

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before its answer; with a budget of 0 tokens it does not."""
        return may_think(self.enable_thinking, self.think_budget)

    @property
    def is_constrained(self) -> bool:
        """Whether the answer must follow a grammar or a JSON schema."""
        return bool(self.grammar or self.json_schema)


@dataclass(frozen=True)
class PrefillPrefix(Request[PrefillProgress | PrefixReady]):
    """Evaluate the prefix shared by all prompts that begin with `messages`, and save its state in `state_path`.

    If it is cancelled, the state of the tokens evaluated so far is saved.
    """

    messages: tuple[Message, ...]
    state_path: str
    tools: Tools = ()


@dataclass(frozen=True)
class Restore(Request[Restored]):
    """Restore the state saved in the file `path`."""

    path: str


@dataclass(frozen=True)
class Count(Request[TokenCount]):
    """Count the tokens of `text`."""

    text: str


@dataclass(frozen=True)
class CountPrompt(Request[TokenCount]):
    """Count the tokens of the prompt for the next answer."""

    messages: tuple[Message, ...]
    enable_thinking: bool = True
    tools: Tools = ()


@dataclass(frozen=True)
class RunBenchmark(Request[BenchmarkResult]):
    """Time the evaluation of arbitrary tokens: `prompt` of them in batches, then `generate` one by one.

    `depth` tokens are evaluated before them, without being timed. Clears the context.
    """

    prompt: int = 0
    generate: int = 0
    depth: int = 0


@dataclass(frozen=True)
class Flush(Request[Flushed]):
    """Wait until all saved states are on disk."""


@dataclass(frozen=True)
class Stats(Request[EngineStats]):
    """Ask for the statistics of the engine between two answers."""


@dataclass(frozen=True)
class WarmPrefix(Notification):
    """Evaluate the beginning of the next prompt in the background, until the next request comes."""

    messages: tuple[Message, ...]
    enable_thinking: bool = True
    state_path: str = ""  # file for the state after `messages`; "": not saved
    tools: Tools = ()


@dataclass(frozen=True)
class Cancel(Notification):
    """Cancel the running request: a load ends with RequestFailed, a generation with reason="cancelled"."""


@dataclass(frozen=True)
class Close(Notification):
    """Shut the engine down."""
