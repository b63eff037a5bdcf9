"""Beginnings that several prompts have in common: found by their tokens, evaluated once, copied to who needs them.

Prompts come in as arrays of tokens; what goes out is how much of one is worth sharing, and sequences that hold a shared
beginning. Nothing is evaluated here, so that nothing of libllama is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

LEAST_TOKENS = 32  # what is shorter costs more to keep in order than to evaluate again


@dataclass
class CachedPrefix:
    """A sequence of the context that holds, or will hold, `tokens`; `done` of them are evaluated."""

    sequence: int
    tokens: Ints
    done: int = 0
    used_at: int = 0
    pinned: bool = False  # however seldom it is needed

    @property
    def is_ready(self) -> bool:
        """Whether all of it is evaluated."""
        return self.done == len(self.tokens) > 0

    @property
    def is_prefilling(self) -> bool:
        """Whether some of it is still to be evaluated."""
        return self.done < len(self.tokens)

    def is_prefix_of(self, prompt: Ints) -> bool:
        """Whether `prompt` begins with it and goes on."""
        size = len(self.tokens)
        return 0 < size < len(prompt) and bool((prompt[:size] == self.tokens).all())


class PrefixCache:
    """The prefixes of a context, in its sequences `sequences`."""

    def __init__(self, sequences: Iterable[int]) -> None:
        self.all = [CachedPrefix(sequence, np.zeros(0, np.int32)) for sequence in sequences]
        self._clock = 0

    def longest(self, prompt: Ints) -> CachedPrefix | None:
        """The longest one that is ready and begins `prompt`."""
        fitting = [prefix for prefix in self.all if prefix.is_ready and prefix.is_prefix_of(prompt)]
        return max(fitting, key=lambda prefix: len(prefix.tokens), default=None)

    def is_prefilling(self, prompt: Ints) -> bool:
        """Whether a beginning of `prompt` is under way."""
        return any(one.is_prefilling and one.is_prefix_of(prompt) for one in self.all)

    def touch(self, prefix: CachedPrefix) -> None:
        """Note that it was needed."""
        self._clock += 1
        prefix.used_at = self._clock

    def evict_candidate(self, base: CachedPrefix | None, waiting: Sequence[Ints]) -> CachedPrefix | None:
        """The one that was not needed for the longest time, and that no waiting prompt needs; not `base`."""
        unneeded = [
            prefix
            for prefix in self.all
            if prefix is not base
            and not prefix.pinned
            and not prefix.is_prefilling
            and not any(map(prefix.is_prefix_of, waiting))
        ]
        return min(unneeded, key=lambda prefix: prefix.used_at, default=None)


def best_shared_length(prompt: Ints, held: int, others: Iterable[Ints]) -> int:
    """The length at which sharing the beginning of `prompt` with `others` saves the most tokens; 0 if it saves none.

    `held` tokens of it are there already.
    """
    lengths = sorted((min(common_length(prompt, other), len(prompt) - 1) for other in others), reverse=True)
    saved = [((length - held) * (at + 1), length) for at, length in enumerate(lengths) if length - held >= LEAST_TOKENS]
    return max(saved, default=(0, 0))[1]


def common_length(first: Ints, second: Ints) -> int:
    """The number of tokens at the beginning that are the same."""
    size = min(len(first), len(second))
    differs = first[:size] != second[:size]
    at = int(differs.argmax()) if size else 0
    return at if size and differs[at] else size
