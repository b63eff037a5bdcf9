"""Checkpoints of a sequence's recurrent state at earlier positions, in RAM within a budget of bytes.

The state of linear attention cannot be rolled back to an earlier token, but a copy of it can be restored. The attention
layers need no copy: the KV cache still holds every earlier position and is truncated after the recurrent part has been
restored (`llama_state_seq_get_data_ext` with PARTIAL_ONLY). Positions come in, states go out; the tokens are not known
here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

_FULL, _PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_NONE, llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_BYTES = ctypes.POINTER(ctypes.c_uint8)

State = npt.NDArray[np.uint8]  # [bytes], in libllama's own format


def get_sequence_state(context: llama.llama_context_p, sequence: int = 0) -> State:
    """A copy of the whole state of a sequence: recurrent state and KV cache."""
    return _get_state(context, _FULL, sequence)


def set_sequence_state(context: llama.llama_context_p, state: State, sequence: int = 0) -> bool:
    """Set an empty sequence to a `state` of `get_sequence_state`; return whether libllama accepted it."""
    return _set_state(context, state, _FULL, sequence)


class StateCheckpoints:
    """The checkpoints of sequence 0 of a context, by number of tokens. Together they take at most `budget_bytes`."""

    def __init__(self, context: llama.llama_context_p, budget_bytes: int) -> None:
        self._context, self._budget_bytes = context, budget_bytes
        self._states: dict[int, State] = {}  # by position, ascending
        self._temporary: int | None = None  # position of the temporary checkpoint

    def __len__(self) -> int:
        return len(self._states)

    @property
    def n_bytes(self) -> int:
        """Total size of the checkpoints in bytes."""
        return sum(state.size for state in self._states.values())

    def save(self, position: int) -> None:
        """Save a checkpoint of the current state, after `position` tokens, unless it alone exceeds the budget."""
        if position in self._states:
            return
        if self._ensure_capacity(llama.llama_state_seq_get_size_ext(self._context, 0, _PARTIAL)):
            self._states[position] = _get_state(self._context, _PARTIAL)

    def save_temporary(self, position: int) -> None:
        """Save a checkpoint that the next call replaces: a cancelled prefill can resume from it."""
        self.drop_temporary()
        if position not in self._states:
            self.save(position)
            self._temporary = position

    def drop_temporary(self) -> None:
        """Drop the checkpoint of `save_temporary`, if there is one."""
        if self._temporary is not None:
            self._states.pop(self._temporary, None)
        self._temporary = None

    def add(self, states: Mapping[int, State]) -> None:
        """Add checkpoints that were read from a file."""
        for position in sorted(states):
            if self._ensure_capacity(states[position].size):
                self._states[position] = states[position]

    def first_and_last(self) -> dict[int, State]:
        """The checkpoints worth saving to disk: the first and the last; during a prefill also its starting point."""
        positions = list(self._states)
        last = positions[-2:] if self._temporary in positions[-1:] else positions[-1:]
        return {position: self._states[position] for position in (*positions[:1], *last)}

    def latest(self, limit: int) -> int | None:
        """The largest position of a checkpoint at or before `limit`; None if there is none."""
        return max((position for position in self._states if position <= limit), default=None)

    def restore(self, length: int, position: int) -> bool:
        """Restore the checkpoint after `length` tokens and drop all later ones; return whether libllama accepted it.

        `position` is the M-RoPE position of the next token; the KV cache is truncated there.
        """
        state = self._states[length]
        self.discard_after(length)
        memory = llama.llama_get_memory(self._context)
        # The recurrent state first: truncating the KV cache without it would be rejected.
        return _set_state(self._context, state, _PARTIAL) and llama.llama_memory_seq_rm(memory, 0, position, -1)

    def discard_after(self, position: int) -> None:
        """Drop the checkpoints after `position`: the KV cache will no longer hold their tokens."""
        self._states = {at: state for at, state in self._states.items() if at <= position}

    def _ensure_capacity(self, size: int) -> bool:
        """Evict the oldest checkpoints until `size` more bytes fit; return False if they never can."""
        if size > self._budget_bytes:
            return False
        while self.n_bytes + size > self._budget_bytes:
            oldest = list(self._states)[:2]
            del self._states[oldest[-1]]  # [0] is the system prompt, which every branch shares
        return True


def _get_state(context: llama.llama_context_p, flags: int, sequence: int = 0) -> State:
    size = llama.llama_state_seq_get_size_ext(context, sequence, flags)
    state = np.empty(size, np.uint8)
    written = llama.llama_state_seq_get_data_ext(context, state.ctypes.data_as(_BYTES), size, sequence, flags)
    return state[:written]


def _set_state(context: llama.llama_context_p, state: State, flags: int, sequence: int = 0) -> bool:
    read = llama.llama_state_seq_set_data_ext(context, state.ctypes.data_as(_BYTES), state.size, sequence, flags)
    return bool(read == state.size)
