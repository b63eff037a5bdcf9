"""Makes room in a context that is nearly full: drops or summarizes the oldest turns, and says so.

A conversation with an open question comes in; one goes out of which fewer turns are sent. The saved conversation keeps
all of its turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from qwenctl.chat.build_request import AnswerLimits, build_request
from qwenctl.chat.conversation import Conversation
from qwenctl.engine.interface import InferenceEngine, LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import TextDelta

ContextFullPolicy = Literal["stop", "drop-oldest", "summarize"]
# Shares of the context: a prompt above the first is trimmed below the second, so that not every turn needs trimming.
_FULL, _TARGET = 0.8, 0.5
_SUMMARY_TOKENS = 1000
_SUMMARIZE = (
    "Summarize our conversation so far, for yourself: what I want, what was found out and decided, names, numbers and "
    "code that are still needed. Write only the summary."
)


def trim_context(
    model: LoadedEngine, conversation: Conversation, on_full: ContextFullPolicy, notify: Callable[[str], None]
) -> Conversation:
    """Return `conversation` with enough of its oldest turns left out to fit the context; `notify` gets a line of text.

    If a summary fails, the turns are dropped without one. Raises QwenctlError if the engine crashes.
    """
    size = model.loaded.context_tokens
    if on_full == "stop" or _count_tokens(model.engine, conversation) <= _FULL * size:
        return conversation
    shorter = conversation
    while (
        _count_tokens(model.engine, shorter) > _TARGET * size and (next_shorter := shorter.without_oldest()) is not None
    ):
        shorter = next_shorter
    left_out = shorter.omitted - conversation.omitted
    if not left_out:
        return conversation
    if on_full == "summarize":
        try:
            summarized = shorter.with_summary(_summarize(model, conversation, left_out))
        except QwenctlError as error:
            if error.code == ExitCode.ENGINE_CRASHED:
                raise
        else:
            notify(f"the context is nearly full: the {left_out:,} oldest messages are summarized")
            return summarized
    notify(f"the context is nearly full: the {left_out:,} oldest messages are no longer sent")
    return shorter


def _count_tokens(engine: InferenceEngine, conversation: Conversation) -> int:
    return engine.count_prompt(
        conversation.prompt_messages, enable_thinking=conversation.think, tools=conversation.tools
    )


def _summarize(model: LoadedEngine, conversation: Conversation, left_out: int) -> str:
    """Let the model summarize the turns that will be left out, together with its earlier summary."""
    turns = conversation.turns[: conversation.omitted + left_out]
    empty = conversation.reset()
    old = replace(empty, messages=(*empty.messages, *turns), omitted=conversation.omitted, think=False, tools=())
    question = old.with_summary(conversation.summary).with_user(_SUMMARIZE)
    events = model.engine.generate(build_request(question, model.loaded, AnswerLimits(_SUMMARY_TOKENS)))
    return "".join(event.text for event in events if isinstance(event, TextDelta)).strip()
