"""The interface between a chat and the functions of `--tools`, and the limits of their results.

How functions are run is not known here.
"""

from __future__ import annotations

from typing import Protocol

from qwenctl.protocol.messages import ToolCall, Tools

MAX_ROUNDS = 25  # rounds of calls for one question
MAX_RESULT_CHARACTERS = 20_000  # about 5,000 tokens; more would fill the context
NO_OUTPUT = "(no output)"


class ToolSet(Protocol):
    """A set of functions; `close` ends whatever still runs."""

    @property
    def schemas(self) -> Tools:
        """The functions in OpenAI's format, as the model is given them."""

    @property
    def manual_tools(self) -> frozenset[str]:
        """The names of functions without an implementation; the user types their results."""

    def run(self, call: ToolCall) -> str:
        """Run a valid call and return its result; a failure is a result as well, which starts with `error: `.

        Ctrl-C ends the function and raises KeyboardInterrupt.
        """

    def close(self) -> None:
        """End everything that runs; may be called twice."""


def truncate_result(text: str) -> str:
    """Cut `text` after `MAX_RESULT_CHARACTERS` characters, with a note at the end if something was cut."""
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}\n… cut after {MAX_RESULT_CHARACTERS:,} characters"


def error_result(reason: str) -> str:
    """The result of a call that failed for `reason`."""
    return truncate_result(f"error: {reason}")
