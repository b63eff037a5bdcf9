"""Recognizes what a terminal pastes without marking it: several lines that arrive faster than anybody types.

The text of keys comes in, as it arrived; the same text goes out, with such lines between the marks of a paste. What
keys mean besides Enter is not known here.
"""

from __future__ import annotations

import re

PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"
BURST_S = 0.03  # keys that follow each other sooner belong together: nobody presses 30 a second that differ
_REST_WITHIN_S = 0.2  # what follows a recognized paste sooner is its rest, even if it is the end of one line
_TEXT = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")  # what can be pasted: no control characters but tab and Enter
_SEVERAL_LINES = re.compile(r"[^\r\n]\r[\r\n]*[^\r\n]")  # Enter is a carriage return; a line feed sends nothing


class PasteMarker:
    """Marks pastes in the keys of one terminal, until it has marked one by itself: then it marks them all."""

    def __init__(self) -> None:
        self._terminal_marks = False
        self._tail = ""  # the last characters: a mark may be cut anywhere
        self._pasted_at = float("-inf")

    def mark(self, burst: str, at: float) -> str:
        """Return `burst`, keys that came at once at the time `at` (seconds), with its unmarked pastes marked."""
        seen, self._tail = self._tail + burst, (self._tail + burst)[-len(PASTE_BEGIN) + 1 :]
        self._terminal_marks = self._terminal_marks or PASTE_BEGIN in seen
        if self._terminal_marks or "\x1b" in burst:
            return burst
        is_rest = at - self._pasted_at < _REST_WITHIN_S

        def mark_text(found: re.Match[str]) -> str:
            text = found[0]
            if not (_SEVERAL_LINES.search(text) or (is_rest and found.start() == 0)):
                return text
            self._pasted_at = at
            return f"{PASTE_BEGIN}{text}{PASTE_END}"

        marked = _TEXT.sub(mark_text, burst)
        if burst and not _TEXT.match(burst[-1]):
            self._pasted_at = float("-inf")  # a key such as Ctrl-C ends a paste
        return marked


def ends_in_paste(keys: str) -> bool:
    """Whether a marked paste begins in `keys` and does not end."""
    return keys.rfind(PASTE_BEGIN) > keys.rfind(PASTE_END)
