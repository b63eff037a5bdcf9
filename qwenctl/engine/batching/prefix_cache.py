"""The prefixes that several prompts have in common: detected by their tokens, evaluated once, copied where needed.

Prompts come in as arrays of tokens; out go the length worth sharing, and the sequences that hold a shared prefix.
Nothing is evaluated here, and libllama is not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenctl.engine.llama.common_prefix import common_prefix_length

Ints = npt.NDArray[np.int32]

MIN_SHARED_TOKENS = 32  # a shorter prefix costs more to manage than to evaluate again


@dataclass
class CachedPrefix:
    """A sequence of the context that holds, or will hold, `tokens`; `done` of them are evaluated."""

    sequence: int
    tokens: Ints
    done: int = 0
    used_at: int = 0
    pinned: bool = False  # never evicted

    @property
    def is_ready(self) -> bool:
        """Whether all of it is evaluated."""
        return self.done == len(self.tokens) > 0

    @property
    def is_prefilling(self) -> bool:
        """Whether part of it is still to be evaluated."""
        return self.done < len(self.tokens)

    def is_prefix_of(self, prompt: Ints) -> bool:
        """Whether `prompt` starts with it and is longer."""
        size = len(self.tokens)
        return 0 < size < len(prompt) and bool((prompt[:size] == self.tokens).all())


class PrefixCache:
    """The cached prefixes of a context, one in each of its sequences `sequences`."""

    def __init__(self, sequences: Iterable[int]) -> None:
        self.prefixes = [CachedPrefix(sequence, np.zeros(0, np.int32)) for sequence in sequences]
        self._clock = 0

    def longest(self, prompt: Ints) -> CachedPrefix | None:
        """The longest prefix of `prompt` that is ready; None if there is none."""
        fitting = [prefix for prefix in self.prefixes if prefix.is_ready and prefix.is_prefix_of(prompt)]
        return max(fitting, key=lambda prefix: len(prefix.tokens), default=None)

    def is_prefilling(self, prompt: Ints) -> bool:
        """Whether a prefix of `prompt` is being evaluated."""
        return any(prefix.is_prefilling and prefix.is_prefix_of(prompt) for prefix in self.prefixes)

    def touch(self, prefix: CachedPrefix) -> None:
        """Mark a prefix as used just now."""
        self._clock += 1
        prefix.used_at = self._clock

    def evict_candidate(self, base: CachedPrefix | None, waiting: Sequence[Ints]) -> CachedPrefix | None:
        """The least recently used prefix that no waiting prompt needs, except `base`; None if there is none."""
        unneeded = [
            prefix
            for prefix in self.prefixes
            if prefix is not base
            and not prefix.pinned
            and not prefix.is_prefilling
            and not any(map(prefix.is_prefix_of, waiting))
        ]
        return min(unneeded, key=lambda prefix: prefix.used_at, default=None)


def best_shared_length(prompt: Ints, cached: int, others: Iterable[Ints]) -> int:
    """The prefix length of `prompt` at which sharing it with `others` saves the most tokens; 0 if none is worth it.

    `cached` of its tokens are evaluated already. All arrays are [tokens].
    """
    # With the lengths in descending order, the first n + 1 prompts all share at least the n-th length.
    lengths = sorted((min(common_prefix_length(prompt, other), len(prompt) - 1) for other in others), reverse=True)
    saved = [
        ((length - cached) * (at + 1), length)
        for at, length in enumerate(lengths)
        if length - cached >= MIN_SHARED_TOKENS
    ]
    return max(saved, default=(0, 0))[1]
