"""Contexts beyond the one that a model was trained on: how far they go, and by how much positions are scaled for them.

Numbers of tokens come in, numbers go out. Scaling (YaRN) costs short prompts some quality, so there is none where it is
not needed, and no more than is. The makers of Qwen3.5 publish a factor of 4 for 262,144 tokens, with which a context is
1,010,000 tokens long, and advise a smaller factor where less is enough.
"""

from __future__ import annotations

import math

_PUBLISHED = {262_144: 1_010_000}
_STEP = 0.5


def longest_context(trained: int) -> int:
    """The most tokens that a model trained on `trained` can be given."""
    return _PUBLISHED.get(trained, trained)


def scaling_factor(tokens: int, trained: int) -> float:
    """By how much positions are scaled: 1 up to the training's length, then the next half that is enough."""
    return 1.0 if tokens <= trained else math.ceil(tokens / trained / _STEP) * _STEP
