"""A conversation as a value: its turns, how the model thinks and is sampled, and the functions that it may call.

Every change returns a new value, so that taking a turn back or asking again is keeping an older one. It knows nothing
of an engine, a terminal or a model's own defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Message, Tools

_HEADING = "Summary of the earlier conversation:"


@dataclass(frozen=True)
class Conversation:
    """`sampling` holds what the user set, by field name of `protocol.Sampling`; the rest is the model's default.

    The first `omitted` turns are not sent to the model any more, a `summary` of them is, if there is one. `tools` are
    what it is told of functions; who runs them is not known here.
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
        """The text of the system message, if there is one."""
        return next((message.content for message in self.messages if message.role == "system"), "")

    @property
    def turns(self) -> tuple[Message, ...]:
        """All messages but the system message."""
        return tuple(message for message in self.messages if message.role != "system")

    @property
    def prompt_messages(self) -> tuple[Message, ...]:
        """What the model is shown."""
        summary = f"{_HEADING}\n{self.summary}" if self.summary else ""
        system = "\n\n".join(text for text in (self.system, summary) if text)
        return (*((Message("system", system),) if system else ()), *self.turns[self.omitted :])

    def without_oldest(self) -> Conversation | None:
        """With one question more left out, and all up to the next one; None if only the last is left."""
        turns = self.turns
        later = [at for at, message in enumerate(turns) if message.role == "user" and at > self.omitted]
        return replace(self, omitted=later[0]) if later else None

    def summarized(self, summary: str) -> Conversation:
        """With `summary` in the place of what is left out."""
        return replace(self, summary=summary)

    def with_user(self, text: str, media: tuple[Media, ...] = ()) -> Conversation:
        return replace(self, messages=(*self.messages, Message("user", text, media=media)))

    def with_answer(self, text: str, thinking: str) -> Conversation:
        return replace(self, messages=(*self.messages, Message("assistant", text, thinking)))

    def with_turn(self, message: Message) -> Conversation:
        return replace(self, messages=(*self.messages, message))

    def with_results(self, results: Iterable[str]) -> Conversation:
        """With the results of the calls in the last answer, in their order."""
        return replace(self, messages=(*self.messages, *(Message("tool", result) for result in results)))

    def with_system(self, text: str) -> Conversation:
        """With `text` as the one system message; empty text leaves it out."""
        return replace(self, messages=(*((Message("system", text),) if text else ()), *self.turns))

    def with_think(self, think: bool, budget: int = -1) -> Conversation:
        """With thinking on or off, and limited to `budget` tokens (-1: not limited)."""
        return replace(self, think=think, think_budget=budget)

    def with_sampling(self, name: str, value: float | int | None) -> Conversation:
        return replace(self, sampling={**self.sampling, name: value})

    def reset(self) -> Conversation:
        """Without its turns; the system message stays."""
        system = tuple(message for message in self.messages if message.role == "system")
        return replace(self, messages=system, omitted=0, summary="")

    def without_last_answer(self) -> Conversation:
        """Without the answer to the last question and all calls on the way, so that it can be asked again."""
        after = next((at for at, message in enumerate(reversed(self.messages)) if message.role == "user"), 0)
        return replace(self, messages=self.messages[: len(self.messages) - after])

    def without_open_question(self) -> Conversation:
        """Without a last question that has no answer."""
        return self.without_last_turn() if self.awaits_answer else self

    def without_last_turn(self) -> Conversation:
        """Without the last question and its answer."""
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
        """The pictures of the last question."""
        return next((message.media for message in reversed(self.messages) if message.role == "user"), ())

    @property
    def media(self) -> tuple[Media, ...]:
        """All pictures."""
        return tuple(media for message in self.messages for media in message.media)

    @property
    def last_answer(self) -> str:
        """The text of the last answer."""
        return next((message.content for message in reversed(self.messages) if message.role == "assistant"), "")

    @property
    def awaits_answer(self) -> bool:
        """Does it end with a question that has no answer?"""
        return bool(self.messages) and self.messages[-1].role == "user"

    @property
    def last_thinking(self) -> str:
        answers = [message for message in self.messages if message.role == "assistant"]
        return answers[-1].thinking if answers else ""
