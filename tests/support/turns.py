"""Turns of a conversation with an engine: the answers, and how many tokens were evaluated for them."""

from __future__ import annotations

from dataclasses import dataclass

from qwenctl.engine.client import Engine
from qwenctl.protocol.messages import (
    Generate,
    GenerationFinished,
    Message,
    Sampling,
    TextDelta,
    Usage,
)

GREEDY = Sampling(temperature=0, presence_penalty=0)
QUESTIONS = (
    "My name is Linus.", "What is the capital of France?", "What is my name?", "What is 2 + 3?", "Spell cow.",
    "What colour is a flamingo?",
)  # fmt: skip
SYSTEM = Message("system", "You are a helpful assistant.")


@dataclass(frozen=True)
class Reply:
    """An answer as a message of the conversation, and its token usage."""

    message: Message
    usage: Usage

    @property
    def evaluated(self) -> int:
        return self.usage.prompt_tokens - self.usage.cached_tokens


def ask(engine: Engine, messages: tuple[Message, ...], *, think: bool = True) -> Reply:
    """The next answer, sampled greedily."""
    *events, finished = engine.generate(Generate(messages, think, GREEDY, 60))
    assert isinstance(finished, GenerationFinished)
    output = {
        channel: "".join(event.text for event in events if isinstance(event, TextDelta) and event.channel == channel)
        for channel in ("answer", "thinking")
    }
    return Reply(Message("assistant", output["answer"], output["thinking"]), finished.usage)


def with_turn(messages: tuple[Message, ...], question: str, reply: Reply) -> tuple[Message, ...]:
    """The conversation with a question and its answer appended."""
    return (*messages, Message("user", question), reply.message)


def tokens_of(engine: Engine, text: str) -> int:
    """The number of tokens of a turn with `text`, including its template tokens."""
    empty, one = (ask(engine, (Message("user", "x"), Message("user", each))) for each in ("x", text))
    return one.usage.prompt_tokens - empty.usage.prompt_tokens + 10
