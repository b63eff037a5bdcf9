"""Questions to a person at a terminal; where there is none, nothing is asked."""

from __future__ import annotations

import sys

from qwenctl.terminal.streams import is_terminal


def ask(question: str) -> str | None:
    """What was typed, without blanks around it; None where nobody can answer. The end of input is an answer: "n"."""
    if not is_terminal(sys.stdin) or not is_terminal(sys.stderr):
        return None
    sys.stderr.write(question)
    sys.stderr.flush()
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        raise
    if not line:
        sys.stderr.write("\n")
        return "n"
    return line.strip()


def agreed(question: str) -> bool:
    """Whether the answer is yes, as it is where nobody can answer."""
    answer = ask(f"{question} [y/N] ")
    return answer is None or answer.lower() in ("y", "yes")
