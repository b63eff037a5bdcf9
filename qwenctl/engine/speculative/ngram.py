"""Drafts from the text so far: what followed the last time that the same tokens stood on end.

Tokens come in, those that may follow go out; nothing is evaluated for it. It pays where text is copied: code that is
edited, names, quotations, JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

_KEY_TOKENS = 3  # so many must be the same
_LONGEST_MATCH = 32
_TOKEN_BITS = 20  # more than any vocabulary has; a picture's number, below zero, only makes a key of its own
_KEY_MASK = (1 << _KEY_TOKENS * _TOKEN_BITS) - 1


class NgramLookup:
    """An index of one text, which may grow; `begin` is called where it may have changed otherwise.

    How often a text foretells itself costs nothing to see: `follow` looks on where nothing is drafted.
    """

    def __init__(self) -> None:
        self._after: dict[int, int] = {}  # the position after the last place of each key
        self._indexed = self._key = 0  # so many tokens, and the key of the last of them
        self._predicted_at: int | None = None  # the position of the token that should come next
        self._right = 0  # the tokens before it that have come as foretold

    def begin(self) -> None:
        """Forget the text: another one, or another branch of it, follows."""
        self._after.clear()
        self._indexed = self._key = 0
        self._predicted_at = None

    def track(self, tokens: Sequence[int], next_token: int, most: int) -> tuple[bool, int | None]:
        """Whether there is anything that may follow `tokens` and `next_token`; and, where a draft of `most` tokens
        would have come to its end with `next_token`, how many of them would have been right.
        """
        ended = None
        if self._predicted_at is not None:
            if tokens[self._predicted_at] == next_token:
                self._right, self._predicted_at = self._right + 1, self._predicted_at + 1
                if self._right < most:
                    return True, None
            ended, self._predicted_at = self._right, None
        self._predicted_at, self._right = self._place(tokens, next_token), 0
        return self._predicted_at is not None, ended

    def stop_tracking(self) -> None:
        """Follow no longer: what comes next is drafted."""
        self._predicted_at = None

    def draft(self, tokens: Sequence[int], next_token: int, most: int) -> list[int]:
        """At most `most` tokens that may follow `tokens` and `next_token`; the longer the match, the more of them."""
        after = self._place(tokens, next_token)
        if after is None:
            return []
        sure = 2 * (_KEY_TOKENS + _same_before(tokens, after - _KEY_TOKENS, len(tokens) + 1 - _KEY_TOKENS)) - 2
        return list(takewhile(_is_text, tokens[after : after + min(most, sure)]))

    def _place(self, tokens: Sequence[int], next_token: int) -> int | None:
        """The position after the last place where the same tokens stood."""
        while self._indexed < len(tokens):
            if self._indexed >= _KEY_TOKENS:
                self._after[self._key] = self._indexed
            self._key = _with(self._key, tokens[self._indexed])
            self._indexed += 1
        return self._after.get(_with(self._key, next_token))


def _with(key: int, token: int) -> int:
    """The key of the last tokens, once `token` follows them: their numbers side by side."""
    return (key << _TOKEN_BITS | token) & _KEY_MASK


def _is_text(token: int) -> bool:
    """Whether it is no part of a picture."""
    return token >= 0


def _same_before(tokens: Sequence[int], first: int, second: int) -> int:
    """How many tokens on end before the positions `first` and `second` are the same."""
    count = 0
    while count < _LONGEST_MATCH and count < first and tokens[first - 1 - count] == tokens[second - 1 - count]:
        count += 1
    return count
