"""Standard input, output and error, in a terminal or a pipe.

Text goes to a terminal without control characters; to a file or pipe it goes unchanged, as UTF-8 in any locale. What
the text means is not known here.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from typing import BinaryIO, TextIO

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.terminal.sanitize import TerminalCleaner, clean_line

_REDRAWS_PER_SECOND = 10
_SILENCE_S = 3.0
_LINE_SHARE, _LINE_SECONDS, _SHORTEST_SECONDS = 0.05, 30.0, 1.0


def is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is open and a terminal."""
    return stream is not None and stream.isatty()


def piped_input() -> BinaryIO | None:
    """Return standard input as bytes; None if it is a terminal or closed."""
    return None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer


def text_writer(stream: TextIO | None) -> Callable[[str], None]:
    """Return a function that writes text to `stream` and flushes it. Raises QwenctlError if the stream is closed."""
    if stream is None:
        raise QwenctlError("standard output is closed", "qwenctl chat … > answer.txt", ExitCode.IO)
    binary = stream.buffer
    clean = TerminalCleaner().feed if stream.isatty() else str

    def write(text: str) -> None:
        binary.write(clean(text).encode("utf-8", "replace"))
        binary.flush()

    return write


def warn(message: str) -> None:
    """Write a warning to standard error, on one line."""
    if sys.stderr is not None:
        sys.stderr.write(f"qwenctl: warning: {clean_line(message)}\n")
        sys.stderr.flush()


def note(message: str) -> None:
    """Write what the user may want to know, but need not act on, to standard error, on one line."""
    if sys.stderr is not None:
        sys.stderr.write(f"note: {clean_line(message)}\n")
        sys.stderr.flush()


def warn_if_silent(
    stream: BinaryIO, what: str, hint: str, tell: Callable[[str], None] = warn, seconds: float = _SILENCE_S
) -> None:
    """Call `tell` if nothing comes from `stream`, not even its end, for some seconds: who waits should know for what.

    `what` is read from it, and `hint` says what to do if that was not meant.
    """
    try:
        readable, _, _ = select.select([stream.fileno()], [], [], seconds)
    except (OSError, ValueError):  # not a file of the operating system
        return
    if not readable:
        tell(f"waiting for {what}, which is open; {hint}")


class StatusLine:
    """A line on a terminal that is overwritten, and erased at the end; elsewhere nothing is written."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if is_terminal(stream) and os.environ.get("TERM") != "dumb" else None
        self._shown_at = 0.0
        self._visible = False

    def show(self, text: str) -> None:
        """Replace the line by `text`, at most 10 times a second."""
        now = time.monotonic()
        if self._stream is None or now - self._shown_at < 1 / _REDRAWS_PER_SECOND:
            return
        self._shown_at, self._visible = now, True
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        """Erase the line."""
        if self._stream is not None and self._visible:
            self._visible = False
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class LineSchedule:
    """When a line of progress is due: at each twentieth of the way and each half minute, but at most one a second.

    With `at_once` the first twentieth does not have to wait for its second.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._written_at, self._share = time.monotonic() - (_SHORTEST_SECONDS if at_once else 0), 0.0

    def is_due(self, share: float) -> bool:
        """Whether to write a line now that `share` (0 to 1) of the way is done."""
        # A little less than a twentieth is one, too: shares are rounded.
        has_moved = share - self._share > _LINE_SHARE - 1e-9
        return time.monotonic() - self._written_at >= (_SHORTEST_SECONDS if has_moved else _LINE_SECONDS)

    def mark_written(self, share: float) -> None:
        """A line has been written at `share`."""
        self._written_at, self._share = time.monotonic(), share
