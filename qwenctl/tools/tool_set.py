"""What a chat needs of the functions behind `--tools`, whoever runs them."""

from __future__ import annotations

from typing import Protocol

from qwenctl.protocol.messages import ToolCall, Tools

MOST_ROUNDS = 25  # of calls, for one question
MOST_CHARACTERS = 20_000  # of one result, some 5,000 tokens; more would fill the context
NO_OUTPUT = "(no output)"


class ToolSet(Protocol):
    """A set of functions. Use as a context: what runs ends with it."""

    @property
    def schemas(self) -> Tools:
        """What the model is told of them."""

    @property
    def manual_tools(self) -> frozenset[str]:
        """The names of those that nothing runs: a person answers for them."""

    def run(self, call: ToolCall) -> str:
        """The result of a call that has no problem; a failure is a result too, one that begins with `error: `.

        Ctrl-C ends what runs and raises KeyboardInterrupt.
        """

    def close(self) -> None:
        """End all that runs; may be called twice."""


def shortened(text: str) -> str:
    """`text`, cut at `MOST_CHARACTERS`, which is said at its end."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}\n… cut after {MOST_CHARACTERS:,} characters"


def error_result(reason: str) -> str:
    """The result of a function that failed."""
    return shortened(f"error: {reason}")
