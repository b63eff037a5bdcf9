"""The one rule for message lists, however a client makes them: chats, batches and servers send what it returns.

Chat templates expect one system message at the beginning and at least one question. Nothing is refused that has a
sensible reading; docs/guides/messages.md tells users the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwenctl.protocol.messages import Message


def normalize_messages(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages as a chat template takes them. Applying it again changes nothing.

    - All system messages become one at the beginning, in their order, with an empty line between; media never are in
      one. A single one keeps its text; of several, blank ones are left out.
    - An assistant's turn at the end without text, thinking and calls is left out: there is nothing to continue.
    - Without a user's turn, an empty one comes before the others.

    Null contents, lists of parts and the role "developer" are forms of a client's JSON: they are resolved where that is
    read (`batch.input.message_schema`).
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    if len(system) > 1:
        texts = [message.content for message in system if message.content.strip()]
        system = [replace(system[0], content="\n\n".join(texts))] if texts else []
    while turns and turns[-1] == Message("assistant", turns[-1].content) and not turns[-1].content.strip():
        del turns[-1]
    if not any(message.role == "user" for message in turns):
        turns.insert(0, Message("user", ""))
    return (*system, *turns)


def is_continued(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of an answer, which the model is to continue."""
    return bool(messages) and messages[-1].role == "assistant"
