"""From a conversation to what is asked of the engine; the same on a terminal and in a pipe."""

from __future__ import annotations

from dataclasses import dataclass

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import OpenSession
from qwenctl.models.sampling import resolve_sampling
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.messages import Generate


@dataclass(frozen=True)
class AnswerLimits:
    """What every answer is held to: a length in tokens (-1: none), and a grammar or a JSON schema, if any."""

    max_tokens: int = -1
    grammar: str = ""
    json_schema: str = ""


def request(
    conversation: Conversation, loaded: ModelInfo, limits: AnswerLimits, session: OpenSession | None = None
) -> Generate:
    """Ask for the next answer, with the sampling that was chosen or else is published for the model.

    What is read of a long prompt is kept in the `session`.
    """
    return Generate(
        messages=conversation.prompt_messages,
        enable_thinking=conversation.think,
        sampling=resolve_sampling(conversation.sampling, conversation.think, loaded),
        max_tokens=limits.max_tokens,
        think_budget=conversation.think_budget,
        grammar=limits.grammar,
        json_schema=limits.json_schema,
        tools=conversation.tools,
        state_path=str(session.state_file) if session is not None else "",
    )
