"""The ids that have occurred, in a few bytes each: a batch may have millions.

Texts come in; whether one is new goes out. Of each a hash of 64 bits is kept: that two of a million ids are taken for
the same has a chance of one in thirty million.
"""

from __future__ import annotations

import hashlib
from array import array


class IdSet:
    """A set of texts: open addressing in an array, at most half full."""

    def __init__(self) -> None:
        self._size = 0
        self._table = array("Q", bytes(8 << 10))

    def add(self, text: str) -> bool:
        """Take a text; whether it is new."""
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        if not self._put(int.from_bytes(digest, "little") or 1):
            return False
        self._size += 1
        if 2 * self._size > len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for value in old:
                if value:
                    self._put(value)
        return True

    def _put(self, value: int) -> bool:
        mask = len(self._table) - 1
        at = value & mask
        while self._table[at]:
            if self._table[at] == value:
                return False
            at = (at + 1) & mask
        self._table[at] = value
        return True
