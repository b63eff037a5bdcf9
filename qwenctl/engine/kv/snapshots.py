"""Copies of a sequence's recurrent state at earlier positions, kept in RAM within a budget.

The state of linear attention cannot be cut back to an earlier token; a copy can be put back. The attention part needs
no copy: the KV cache still holds every earlier position and is cut back after the recurrent part has been put back
(`llama_state_seq_get_data_ext` with PARTIAL_ONLY). Positions come in, states go out; what the tokens are is not known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

_WHOLE, _PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_NONE, llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_BYTES = ctypes.POINTER(ctypes.c_uint8)

State = npt.NDArray[np.uint8]


def get_sequence_state(context: llama.llama_context_p, sequence: int = 0) -> State:
    """A copy of all of a sequence: recurrent state and KV cache."""
    return _copy(context, _WHOLE, sequence)


def set_sequence_state(context: llama.llama_context_p, state: State, sequence: int = 0) -> bool:
    """Give an empty sequence the state of `whole_state`; whether libllama could."""
    return _put_back(context, state, _WHOLE, sequence)


class StateCheckpoints:
    """The snapshots of sequence 0 of a context, by position. Together they take at most `budget_bytes`."""

    def __init__(self, context: llama.llama_context_p, budget_bytes: int) -> None:
        self._context, self._budget_bytes = context, budget_bytes
        self._states: dict[int, State] = {}  # by position, in rising order
        self._passing: int | None = None  # the position of one that only stays until the next of its kind

    def __len__(self) -> int:
        return len(self._states)

    @property
    def n_bytes(self) -> int:
        """Bytes of all states."""
        return sum(state.size for state in self._states.values())

    def save(self, position: int) -> None:
        """Keep the state that the context has now, after `position` tokens."""
        if position in self._states:
            return
        if self._make_room(llama.llama_state_seq_get_size_ext(self._context, 0, _PARTIAL)):
            self._states[position] = _copy(self._context, _PARTIAL)

    def save_temporary(self, position: int) -> None:
        """Keep the state of now, until the next is taken so: a reading that is stopped can go on from there."""
        self.drop_temporary()
        if position not in self._states:
            self.save(position)
            self._passing = position

    def drop_temporary(self) -> None:
        """Forget the state that `take_passing` has kept."""
        if self._passing is not None:
            self._states.pop(self._passing, None)
        self._passing = None

    def add(self, states: Mapping[int, State]) -> None:
        """Keep states that were copied on another day."""
        for position in sorted(states):
            if self._make_room(states[position].size):
                self._states[position] = states[position]

    def first_and_last(self) -> dict[int, State]:
        """The root and the last one: what is worth keeping for another day. In a reading also where that began."""
        positions = list(self._states)
        last = positions[-2:] if self._passing in positions[-1:] else positions[-1:]
        return {position: self._states[position] for position in (*positions[:1], *last)}

    def latest(self, limit: int) -> int | None:
        """The last position of a snapshot that is at most `limit`."""
        return max((position for position in self._states if position <= limit), default=None)

    def restore(self, length: int, position: int) -> bool:
        """Give the context the state after `length` tokens and forget all later ones; whether libllama could.

        `position` is that of the next token, as libllama counts them.
        """
        state = self._states[length]
        self.discard_after(length)
        memory = llama.llama_get_memory(self._context)
        return _put_back(self._context, state, _PARTIAL) and llama.llama_memory_seq_rm(memory, 0, position, -1)

    def discard_after(self, position: int) -> None:
        """Forget the states of later positions: the KV cache will not hold what they belong to."""
        self._states = {at: state for at, state in self._states.items() if at <= position}

    def _make_room(self, size: int) -> bool:
        """Whether there is room for one more; the oldest but the root falls out first."""
        if size > self._budget_bytes:
            return False
        while self.n_bytes + size > self._budget_bytes:
            oldest = list(self._states)[:2]
            del self._states[oldest[-1]]  # the first is the root: the system prompt, which every branch shares
        return True


def _copy(context: llama.llama_context_p, flags: int, sequence: int = 0) -> State:
    size = llama.llama_state_seq_get_size_ext(context, sequence, flags)
    state = np.empty(size, np.uint8)
    written = llama.llama_state_seq_get_data_ext(context, state.ctypes.data_as(_BYTES), size, sequence, flags)
    return state[:written]


def _put_back(context: llama.llama_context_p, state: State, flags: int, sequence: int = 0) -> bool:
    read = llama.llama_state_seq_set_data_ext(context, state.ctypes.data_as(_BYTES), state.size, sequence, flags)
    return bool(read == state.size)
