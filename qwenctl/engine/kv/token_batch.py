"""A reusable llama_batch: tokens of one sequence or of several, at consecutive positions in each.

For an MTP head each token also comes with a hidden state. What is evaluated, and by whom, is not known here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

BatchItem = tuple[int, int, Sequence[int] | npt.NDArray[np.int32], bool]
"""Sequence, position of the first token, tokens, and whether to output the logits of the last token."""


class TokenBatch:
    """Capacity for `max_tokens` tokens.

    If `width` is not 0, each token comes with a hidden state of that many numbers.
    """

    def __init__(self, max_tokens: int, width: int = 0) -> None:
        self._tokens, self._positions = np.zeros(max_tokens, np.int32), np.zeros(max_tokens, np.int32)
        self._counts, self._sequences, self._output_flags = (
            np.ones(max_tokens, np.int32),
            np.zeros(max_tokens, np.int32),
            np.zeros(max_tokens, np.int8),
        )
        # seq_id holds a pointer to a list for each token; here every list is one element of the array of sequences.
        self._sequence_lists = np.uint64(self._sequences.ctypes.data) + 4 * np.arange(max_tokens, dtype=np.uint64)
        self._states = np.zeros((max_tokens, width), np.float32)
        self.batch = llama.llama_batch()
        self._set_pointer("token", self._tokens)
        self._set_pointer("pos", self._positions)
        self._set_pointer("n_seq_id", self._counts)
        self._set_pointer("seq_id", self._sequence_lists)
        self._set_pointer("logits", self._output_flags)
        if width:
            self._set_pointer("embd", self._states)

    @property
    def size(self) -> int:
        """The number of tokens in the batch."""
        return int(self.batch.n_tokens)

    def fill(
        self,
        tokens: Sequence[int],
        position: int,
        states: npt.NDArray[np.float32] | None = None,
        *,
        n_logits: int = 1,
    ) -> llama.llama_batch:
        """Fill the batch with `tokens` of sequence 0 at the positions from `position` on.

        The logits of the last `n_logits` are requested.

        `states` are [tokens, width]. The returned batch points into this object's arrays: the next one overwrites it.
        """
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = range(position, position + count)
        self._sequences[:count] = 0
        self._output_flags[:count] = False
        self._output_flags[count - n_logits : count] = True
        if states is not None:
            self._states[:count] = states
        self.batch.n_tokens = count
        return self.batch

    def fill_sequences(self, items: Sequence[BatchItem]) -> tuple[llama.llama_batch, list[int]]:
        """Fill the batch with these items; return it, and for each item the row of its last token."""
        end, rows = 0, []
        for sequence, position, tokens, has_output in items:
            start, end = end, end + len(tokens)
            self._tokens[start:end] = tokens
            self._positions[start:end] = range(position, position + len(tokens))
            self._sequences[start:end] = sequence
            self._output_flags[start:end] = 0
            self._output_flags[end - 1] = has_output
            rows.append(end - 1)
        self.batch.n_tokens = end
        return self.batch, rows

    def _set_pointer(self, name: str, array: npt.NDArray[Any]) -> None:
        types: dict[str, Any] = {field[0]: field[1] for field in llama.llama_batch._fields_}
        setattr(self.batch, name, ctypes.cast(array.ctypes.data, types[name]))
