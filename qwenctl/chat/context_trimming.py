"""Room in a context that is nearly full: the oldest turns go, or become a summary. Never without saying so.

A conversation comes in that asks; one goes out of which less is sent. What is kept on the disk stays whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from qwenctl.chat.build_request import AnswerLimits, request
from qwenctl.chat.conversation import Conversation
from qwenctl.engine.interface import InferenceEngine, LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import TextDelta

ContextFullPolicy = Literal["stop", "drop-oldest", "summarize"]
# A prompt above the first share of the context is made to be below the second, so that it need not be done every turn.
_FULL, _ROOMY = 0.8, 0.5
_SUMMARY_TOKENS = 1000
_SUMMARIZE = (
    "Summarize our conversation so far, for yourself: what I want, what was found out and decided, names, numbers and "
    "code that are still needed. Write only the summary."
)


def trim_context(
    model: LoadedEngine, asked: Conversation, on_full: ContextFullPolicy, tell: Callable[[str], None]
) -> Conversation:
    """`asked` with so many of its oldest turns left out that it fits; `tell` is told. Raises QwenctlError."""
    size = model.loaded.context_tokens
    if on_full == "stop" or _tokens(model.engine, asked) <= _FULL * size:
        return asked
    shorter = asked
    while _tokens(model.engine, shorter) > _ROOMY * size and (next_shorter := shorter.without_oldest()) is not None:
        shorter = next_shorter
    left_out = shorter.omitted - asked.omitted
    if not left_out:
        return asked
    if on_full == "summarize":
        try:
            summarized = shorter.summarized(_summary(model, asked, left_out))
        except QwenctlError as error:
            if error.code == ExitCode.ENGINE_CRASHED:
                raise
        else:
            tell(f"the context is nearly full: the {left_out:,} oldest messages are summarized")
            return summarized
    tell(f"the context is nearly full: the {left_out:,} oldest messages are no longer sent")
    return shorter


def _tokens(engine: InferenceEngine, conversation: Conversation) -> int:
    return engine.count_prompt(
        conversation.prompt_messages, enable_thinking=conversation.think, tools=conversation.tools
    )


def _summary(model: LoadedEngine, asked: Conversation, left_out: int) -> str:
    """What the model makes of the turns that will be left out, and of its earlier summary."""
    turns = asked.turns[: asked.omitted + left_out]
    old = replace(
        asked.reset(), messages=(*asked.reset().messages, *turns), omitted=asked.omitted, think=False, tools=()
    )
    question = old.summarized(asked.summary).with_user(_SUMMARIZE)
    events = model.engine.generate(request(question, model.loaded, AnswerLimits(_SUMMARY_TOKENS)))
    return "".join(event.text for event in events if isinstance(event, TextDelta)).strip()
