"""The set of ids seen so far, at a few bytes each: a batch may have millions of records.

Ids come in; whether one is new goes out. Only a 64-bit hash of each is stored: by the birthday bound, the chance that
two of a million different ids collide is n² / 2⁶⁵, one in 37 million.
"""

from __future__ import annotations

import hashlib
from array import array


class IdSet:
    """A set of strings: a hash table with open addressing and linear probing, at most half full."""

    def __init__(self) -> None:
        self._size = 0
        self._table = array("Q", bytes(8 << 10))

    def add(self, text: str) -> bool:
        """Add a string; True if it was not in the set."""
        if not self._put(_hash(text)):
            return False
        self._size += 1
        if 2 * self._size > len(self._table):
            old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for value in old:
                if value:
                    self._put(value)
        return True

    def __contains__(self, text: str) -> bool:
        """Whether the string was added."""
        value, mask = _hash(text), len(self._table) - 1
        at = value & mask
        while self._table[at]:
            if self._table[at] == value:
                return True
            at = (at + 1) & mask
        return False

    def _put(self, value: int) -> bool:
        mask = len(self._table) - 1
        at = value & mask
        while self._table[at]:
            if self._table[at] == value:
                return False
            at = (at + 1) & mask
        self._table[at] = value
        return True


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
