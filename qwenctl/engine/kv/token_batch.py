"""The arrays of a llama_batch of one sequence, made once: tokens at positions, with the logits of some of them.

Where a model's head reads, each token comes with a state too. What is evaluated, and by whom, is not known here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt


class TokenBatch:
    """Room for `most` tokens of sequence 0, with states of `width` numbers if that is not 0."""

    def __init__(self, most: int, width: int = 0) -> None:
        self._tokens, self._positions = np.zeros(most, np.int32), np.zeros(most, np.int32)
        self._counts, self._sequence, self._wanted = (
            np.ones(most, np.int32),
            np.zeros(1, np.int32),
            np.zeros(most, np.int8),
        )
        self._lists = np.full(most, self._sequence.ctypes.data, np.uint64)
        self._states = np.zeros((most, width), np.float32)
        self.batch = llama.llama_batch()
        self._point("token", self._tokens)
        self._point("pos", self._positions)
        self._point("n_seq_id", self._counts)
        self._point("seq_id", self._lists)
        self._point("logits", self._wanted)
        if width:
            self._point("embd", self._states)

    @property
    def size(self) -> int:
        """The tokens that it holds now."""
        return int(self.batch.n_tokens)

    def fill(
        self,
        tokens: Sequence[int],
        position: int,
        states: npt.NDArray[np.float32] | None = None,
        *,
        wanted: int = 1,
    ) -> llama.llama_batch:
        """Put `tokens` in it, from `position` on; the logits of the last `wanted` are wanted."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = range(position, position + count)
        self._wanted[:count] = False
        self._wanted[count - wanted : count] = True
        if states is not None:
            self._states[:count] = states
        self.batch.n_tokens = count
        return self.batch

    def _point(self, name: str, array: npt.NDArray[Any]) -> None:
        kinds: dict[str, Any] = {field[0]: field[1] for field in llama.llama_batch._fields_}
        setattr(self.batch, name, ctypes.cast(array.ctypes.data, kinds[name]))
