"""N-gram lookup in the text so far: drafts are what followed the last time that the same tokens stood together.

Tokens come in, those that may follow go out; nothing is evaluated for it. It pays where text is copied: code that is
edited, names, quotations, JSON. When to draft is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

_KEY_TOKENS = 3  # so many must be the same
_MAX_MATCH = 32  # a longer match makes a draft no longer
_TOKEN_BITS = 20  # more than any vocabulary has; a media token, below zero, only makes a key of its own
_KEY_MASK = (1 << _KEY_TOKENS * _TOKEN_BITS) - 1


class NgramLookup:
    """An index of one text, which may grow; `begin` is called where it may have changed otherwise.

    `track` measures how often the text predicts itself without drafting, at no cost.
    """

    def __init__(self) -> None:
        self._continuations: dict[int, int] = {}  # the position after the last occurrence of each key
        self._indexed = self._key = 0  # the number of tokens in the index, and the key of the last of them
        self._predicted_at: int | None = None  # the position of the token that should come next
        self._n_correct = 0  # the tokens before it that came as predicted

    def begin(self) -> None:
        """Forget the text: another one, or another branch of it, follows."""
        self._continuations.clear()
        self._indexed = self._key = 0
        self._predicted_at = None

    def track(self, tokens: Sequence[int], next_token: int, max_length: int) -> tuple[bool, int | None]:
        """Compare the text, `tokens` and then `next_token`, with what a draft would have predicted.

        Returns whether a draft could follow, and, if one of `max_length` tokens would have come to its end with
        `next_token`, how many of them would have been right (else None).
        """
        ended = None
        if self._predicted_at is not None:
            if tokens[self._predicted_at] == next_token:
                self._n_correct, self._predicted_at = self._n_correct + 1, self._predicted_at + 1
                if self._n_correct < max_length:
                    return True, None
            ended, self._predicted_at = self._n_correct, None
        self._predicted_at, self._n_correct = self._continuation(tokens, next_token), 0
        return self._predicted_at is not None, ended

    def stop_tracking(self) -> None:
        """Do not compare what comes next: it is drafted."""
        self._predicted_at = None

    def draft(self, tokens: Sequence[int], next_token: int, max_length: int) -> list[int]:
        """Up to `max_length` tokens that may follow `tokens` and `next_token`; more of them after a longer match."""
        start = self._continuation(tokens, next_token)
        if start is None:
            return []
        match = _KEY_TOKENS + _common_suffix_length(tokens, start - _KEY_TOKENS, len(tokens) + 1 - _KEY_TOKENS)
        length = min(max_length, 2 * match - 2)
        return list(takewhile(_is_text, tokens[start : start + length]))

    def _continuation(self, tokens: Sequence[int], next_token: int) -> int | None:
        """The position after the last occurrence of the key that ends with `next_token`."""
        while self._indexed < len(tokens):
            if self._indexed >= _KEY_TOKENS:
                self._continuations[self._key] = self._indexed
            self._key = _extend_key(self._key, tokens[self._indexed])
            self._indexed += 1
        return self._continuations.get(_extend_key(self._key, next_token))


def _extend_key(key: int, token: int) -> int:
    """The key of the last tokens, once `token` follows them: their ids side by side."""
    return (key << _TOKEN_BITS | token) & _KEY_MASK


def _is_text(token: int) -> bool:
    return token >= 0  # ids of media tokens are below zero


def _common_suffix_length(tokens: Sequence[int], first: int, second: int) -> int:
    """The number of tokens, up to _MAX_MATCH, that are the same before the positions `first` and `second`."""
    count = 0
    while count < _MAX_MATCH and count < first and tokens[first - 1 - count] == tokens[second - 1 - count]:
        count += 1
    return count
