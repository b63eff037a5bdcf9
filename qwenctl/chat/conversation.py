"""A conversation as a value: its messages, the settings for thinking and sampling, and the functions to call.

Every change returns a new value, so undoing a turn is going back to an older one. The engine, the terminal and the
model's own defaults are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, Tools, may_think

_HEADING = "Summary of the earlier conversation:"


@dataclass(frozen=True)
class ConversationChanges:
    """What a user asks for beside a saved conversation to resume; None: as it was saved."""

    system: str | None = None
    think: bool | None = None
    think_budget: int | None = None
    sampling: Mapping[str, float | int | None] = field(default_factory=dict)

    def apply(self, conversation: Conversation) -> Conversation:
        """Return `conversation` with the changes; the rest of it stays."""
        changed = conversation if self.system is None else conversation.with_system(self.system)
        return replace(
            changed,
            think=changed.think if self.think is None else self.think,
            think_budget=changed.think_budget if self.think_budget is None else self.think_budget,
            sampling={**changed.sampling, **self.sampling},
        )


@dataclass(frozen=True)
class Conversation:
    """`sampling` has what the user set, by field name of `protocol.messages.Sampling`; the rest is the model's default.

    The first `omitted` turns are no longer sent to the model; `summary`, if any, is sent in their place. `tools`
    describes the functions to the model. `think_budget` is in tokens (-1: unlimited).
    """

    messages: tuple[Message, ...] = ()
    think: bool = True
    think_budget: int = -1
    sampling: Mapping[str, float | int | None] = field(default_factory=dict)
    omitted: int = 0
    summary: str = ""
    tools: Tools = ()

    @property
    def system(self) -> str:
        """The text of the system message; empty if there is none."""
        return next((message.content for message in self.messages if message.role == "system"), "")

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before an answer; with a budget of 0 tokens it does not."""
        return may_think(self.think, self.think_budget)

    @property
    def turns(self) -> tuple[Message, ...]:
        """All messages except the system message."""
        return tuple(message for message in self.messages if message.role != "system")

    @property
    def prompt_messages(self) -> tuple[Message, ...]:
        """The messages to send to the model: the system message with the summary, and the turns not omitted."""
        summary = f"{_HEADING}\n{self.summary}" if self.summary else ""
        system = "\n\n".join(text for text in (self.system, summary) if text)
        return (*((Message("system", system),) if system else ()), *self.turns[self.omitted :])

    def without_oldest(self) -> Conversation | None:
        """Omit one more question and everything up to the next; None if only the last question is left."""
        turns = self.turns
        later = [at for at, message in enumerate(turns) if message.role == "user" and at > self.omitted]
        return replace(self, omitted=later[0]) if later else None

    def with_summary(self, summary: str) -> Conversation:
        """Return the conversation with `summary` in place of the omitted turns."""
        return replace(self, summary=summary)

    def with_user(self, text: str, media: tuple[Media, ...] = ()) -> Conversation:
        """Append a question, with its images and videos."""
        return replace(self, messages=(*self.messages, Message("user", text, media=media)))

    def with_answer(self, text: str, thinking: str) -> Conversation:
        """Append an answer without tool calls."""
        return replace(self, messages=(*self.messages, Message("assistant", text, thinking)))

    def with_turn(self, message: Message) -> Conversation:
        """Append `message`, whatever its role."""
        return replace(self, messages=(*self.messages, message))

    def with_results(self, results: Iterable[str]) -> Conversation:
        """Append the results of the tool calls in the last answer, in the order of the calls."""
        return replace(self, messages=(*self.messages, *(Message("tool", result) for result in results)))

    def with_system(self, text: str) -> Conversation:
        """Replace the system message by `text`; an empty text removes it."""
        return replace(self, messages=(*((Message("system", text),) if text else ()), *self.turns))

    def with_think(self, think: bool, budget: int = -1) -> Conversation:
        """Turn thinking on or off, for at most `budget` tokens (-1: unlimited)."""
        return replace(self, think=think, think_budget=budget)

    def with_sampling(self, name: str, value: float | int | None) -> Conversation:
        """Set the sampling parameter `name`, a field of `protocol.messages.Sampling`."""
        return replace(self, sampling={**self.sampling, name: value})

    def reset(self) -> Conversation:
        """Remove all turns and the summary; the system message stays."""
        system = tuple(message for message in self.messages if message.role == "system")
        return replace(self, messages=system, omitted=0, summary="")

    def without_last_answer(self) -> Conversation:
        """Remove everything after the last question (answer, calls and results), so that it can be asked again."""
        after = next((at for at, message in enumerate(reversed(self.messages)) if message.role == "user"), 0)
        return replace(self, messages=self.messages[: len(self.messages) - after])

    def without_open_question(self) -> Conversation:
        """Remove the last question if it has no answer."""
        return self.without_last_turn() if self.awaits_answer else self

    def without_last_turn(self) -> Conversation:
        """Remove the last question and its answer."""
        before = self.without_last_answer()
        if not before.awaits_answer:
            return before
        after = replace(before, messages=before.messages[:-1])
        return replace(after, omitted=min(after.omitted, len(after.turns)))

    @property
    def last_question(self) -> str:
        """The text of the last question."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def last_media(self) -> tuple[Media, ...]:
        """The images and videos of the last question."""
        return next((message.media for message in reversed(self.messages) if message.role == "user"), ())

    @property
    def media(self) -> tuple[Media, ...]:
        """All images and videos, in order."""
        return tuple(media for message in self.messages for media in message.media)

    @property
    def last_answer(self) -> str:
        """The text of the last answer."""
        return next((message.content for message in reversed(self.messages) if message.role == "assistant"), "")

    @property
    def awaits_answer(self) -> bool:
        """Whether the last message is a question."""
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def last_thinking(self) -> str:
        """What the model thought before its last answer."""
        answers = [message for message in self.messages if message.role == "assistant"]
        return answers[-1].thinking if answers else ""
