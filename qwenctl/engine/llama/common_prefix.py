"""How many tokens two prompts have in common at their beginnings.

Token ids come in as lists or arrays, a length goes out. libllama is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Tokens = Sequence[int] | npt.NDArray[np.int32]


def common_prefix_length(first: Tokens, second: Tokens) -> int:
    """The number of leading tokens of `first` and `second`, [tokens] each, that are the same."""
    size = min(len(first), len(second))
    differs = np.asarray(first[:size]) != np.asarray(second[:size])
    index = int(differs.argmax()) if size else 0  # argmax stops at the first difference
    return index if size and differs[index] else size
