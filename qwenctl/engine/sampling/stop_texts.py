"""Finds the texts that end an answer, in an answer that comes in pieces.

Pieces of text come in, the place of the first stop text goes out. Only so much of the answer is kept that a stop text
which began in an earlier piece is found, so a long answer costs no more for each token than a short one.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Watches one answer for the texts `stops`; without any it finds nothing."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._tail_size = max(map(len, stops), default=1) - 1  # characters of a stop text that may have come before
        self._tail = ""
        self._tail_begin = 0  # index of the tail in the answer, in characters
        self.place = -1

    @property
    def is_found(self) -> bool:
        """Whether a stop text has come; `place` is then the index in the answer at which the first one begins."""
        return self.place >= 0

    def feed(self, text: str) -> None:
        """Add the next piece of the answer. After a stop text was found, nothing changes any more."""
        if not self._stops or self.is_found:
            return
        recent = self._tail + text
        found = min((place for stop in self._stops if (place := recent.find(stop)) >= 0), default=-1)
        if found >= 0:
            self.place = self._tail_begin + found
        size = len(recent)
        self._tail = recent[max(0, size - self._tail_size) :]
        self._tail_begin += size - len(self._tail)

    def cut(self, answer: str) -> str:
        """The part of the whole answer before the first stop text; all of it if none was found."""
        return answer[: self.place] if self.is_found else answer
