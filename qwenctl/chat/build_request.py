"""Builds the engine's request from a conversation; the same on a terminal and in a pipe."""

from __future__ import annotations

from dataclasses import dataclass

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import OpenSession
from qwenctl.models.sampling import resolve_sampling
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.messages import Generate


@dataclass(frozen=True)
class AnswerLimits:
    """Limits on every answer: a length in tokens (-1: unlimited), and a GBNF grammar or a JSON schema ("": none)."""

    max_tokens: int = -1
    grammar: str = ""
    json_schema: str = ""


def build_request(
    conversation: Conversation, loaded: ModelInfo, limits: AnswerLimits, session: OpenSession | None = None
) -> Generate:
    """Return the request for the next answer, sampled as the user chose or else as published for the model.

    With a `session`, the engine saves its state there while it evaluates a long prompt.
    """
    return Generate(
        messages=conversation.prompt_messages,
        enable_thinking=conversation.think,
        sampling=resolve_sampling(conversation.sampling, conversation.thinks, loaded),
        max_tokens=limits.max_tokens,
        think_budget=conversation.think_budget,
        grammar=limits.grammar,
        json_schema=limits.json_schema,
        tools=conversation.tools,
        state_path=str(session.state_file) if session is not None else "",
    )
