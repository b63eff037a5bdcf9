"""The cache of shared prompt prefixes: which prefix is worth evaluating once, and which may be evicted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.engine.batching.prefix_cache import (
    MIN_SHARED_TOKENS,
    CachedPrefix,
    PrefixCache,
    best_shared_length,
)
from qwenctl.engine.llama.common_prefix import common_prefix_length

TOKENS = st.integers(0, 2)
PROMPT = st.builds(
    lambda repeated, times, rest: np.array(repeated * times + rest, np.int32),
    st.lists(TOKENS, min_size=1, max_size=3),
    st.integers(1, 40),
    st.lists(TOKENS, min_size=1, max_size=8),
)


@given(PROMPT, PROMPT)
def test_common_length_ends_where_prompts_differ(one: np.ndarray, other: np.ndarray) -> None:
    length = common_prefix_length(one, other)
    assert one[:length].tolist() == other[:length].tolist()
    assert length == min(len(one), len(other)) or one[length] != other[length]


@given(PROMPT, st.integers(0, 40), st.lists(PROMPT, max_size=5))
def test_best_shared_length_saves_most_tokens(prompt: np.ndarray, held: int, others: list[np.ndarray]) -> None:
    lengths = [min(common_prefix_length(prompt, other), len(prompt) - 1) for other in others]

    def saved(length: int) -> int:
        return (length - held) * sum(one >= length for one in lengths) if length - held >= MIN_SHARED_TOKENS else 0

    best = max(map(saved, range(len(prompt))), default=0)
    chosen = best_shared_length(prompt, held, others)
    assert saved(chosen) == best
    assert chosen < len(prompt)  # at least one token remains; its logits start the answer
    assert chosen == 0 or chosen - held >= MIN_SHARED_TOKENS


def test_prefix_needed_by_waiting_prompt_is_not_evicted() -> None:
    first, second = np.arange(40, dtype=np.int32), np.arange(100, 140, dtype=np.int32)
    prefixes = PrefixCache([8, 9])
    for prefix, tokens in zip(prefixes.prefixes, (first, second), strict=True):
        prefix.tokens, prefix.done = tokens, 40
        prefixes.touch(prefix)
    waiting = [np.append(first, 7).astype(np.int32)]
    assert prefixes.longest(waiting[0]) is prefixes.prefixes[0]
    assert prefixes.evict_candidate(None, waiting) is prefixes.prefixes[1]
    assert prefixes.evict_candidate(prefixes.prefixes[1], waiting) is None
    assert prefixes.evict_candidate(None, []) is prefixes.prefixes[0]  # the least recently used


def test_prefix_being_prefilled_is_waited_for() -> None:
    tokens = np.arange(40, dtype=np.int32)
    prefixes = PrefixCache([3])
    prefixes.prefixes[0].tokens, prefixes.prefixes[0].done = tokens, 20
    prompt = np.append(tokens, 7).astype(np.int32)
    assert prefixes.is_prefilling(prompt)
    assert prefixes.longest(prompt) is None
    assert not prefixes.is_prefilling(prompt[::-1])
    assert not CachedPrefix(3, tokens, 40).is_prefilling
