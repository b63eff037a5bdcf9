"""The model's own draft head: its multi-token-prediction block, in a context of its own.

The tokens that the model evaluates come in, with the state of its last layer for each; a guess of what follows goes
out. The head reads position i as the token there and the model's state at i - 1, so both are kept of the last tokens,
and the head reads them when a draft is wanted and not before: a prompt costs it nothing. It looks back `_WINDOW` tokens
at most, since the state that it is given knows of all of them; so its cache is small, and as fast at any depth.
Order of calls: common/speculative.cpp of llama.cpp, `common_speculative_impl_draft_mtp`. Whether a guess is right is
not known here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp_ext

from qwenctl.engine.kv.token_batch import TokenBatch
from qwenctl.models.context_memory import DRAFT_HEAD_TOKENS

_WINDOW = 64  # tokens that are read at most, where the head has not read what was before
LONGEST_BATCH = _WINDOW + 1
_LEAST_STATES = 8
_KEPT = 256  # the last tokens whose states are there


class MtpDrafter:
    """The draft head of a model whose context is `target`; `context` is its own."""

    def __init__(self, target: llama.llama_context_p, context: llama.llama_context_p, width: int, size: int) -> None:
        self._target, self._context, self._memory = target, context, llama.llama_get_memory(context)
        self._vocabulary_size = size
        self._batch = TokenBatch(LONGEST_BATCH, width)
        self._states, self._tokens = np.zeros((_KEPT, width), np.float32), np.zeros(_KEPT, np.int32)
        self._begin = self._end = 0  # positions of what is kept
        self._read_from = self._read_to = 0  # and of what the head has read
        self._guessed = -1  # the token that was read at the last of them, which was to be evaluated next
        self._views = _Views(width)
        llama_cpp_ext.llama_set_embeddings_nextn(context, True, False)

    def use_threads(self, count: int) -> None:
        """Compute with so many threads."""
        llama.llama_set_n_threads(self._context, count, count)

    def set_capture(self, *, on: bool) -> None:
        """Have the model give out its states, from now on, or spare it that."""
        self._end = self._begin
        llama_cpp_ext.llama_set_embeddings_nextn(self._target, on, False)

    def on_eval(self, position: int, tokens: Sequence[int], row: int) -> None:
        """Take note of `tokens`, which the model has just evaluated from `position` on; `row` is the first's row."""
        if not self._begin <= position <= self._end:
            self._begin = self._end = position
        self._forget_from(position, tokens[0])
        states = self._views.of(llama_cpp_ext.llama_get_embeddings_nextn(self._target), row + len(tokens))
        count, held = min(len(tokens), _KEPT), position - self._begin
        if held + len(tokens) > _KEPT:  # half of them, so that it is not to be done for each token
            before, held = held, min(held, max(0, _KEPT // 2 - count))
            self._states[:held] = self._states[before - held : before].copy()
            self._tokens[:held] = self._tokens[before - held : before].copy()
        self._states[held : held + count] = states[row + len(tokens) - count : row + len(tokens)]
        self._tokens[held : held + count] = tokens[-count:]
        self._end = position + len(tokens)
        self._begin = self._end - count - held

    def rollback(self, position: int) -> None:
        """What the model has evaluated from `position` on is not true."""
        self._end = max(self._begin, min(self._end, position))

    @property
    def is_ready(self) -> bool:
        """Whether the states of enough tokens are known for a guess."""
        return self._end - self._begin >= _LEAST_STATES

    def draft(self, next_token: int, length: int) -> list[int]:
        """The `length` tokens that may follow `next_token`, the one that will be evaluated next; fewer if unknown."""
        if self._end == self._begin:
            return []
        self._catch_up(next_token)
        found: list[int] = []
        position, token = self._end, next_token
        while self._decode():
            row = self._batch.size - 1
            token = int(_rows(llama.llama_get_logits_ith(self._context, row), 1, self._vocabulary_size).argmax())
            found.append(token)
            if len(found) == length:
                break
            state = _rows(llama_cpp_ext.llama_get_embeddings_nextn_ith(self._context, row), 1, self._states.shape[1])
            position += 1
            self._batch.fill([token], position, state)
        # What was read of guesses is forgotten; the token that they follow is no guess.
        llama.llama_memory_seq_rm(self._memory, 0, self._end + 1, -1)
        self._read_to, self._guessed = self._end + 1, next_token
        return found

    def _forget_from(self, position: int, token: int) -> None:
        """Forget what was read from `position` on, but `token` there, if it is what was read."""
        if position == self._read_to - 1 and token == self._guessed:
            return
        if position < self._read_to:
            llama.llama_memory_seq_rm(self._memory, 0, position, -1)
            self._read_to = position
        self._guessed = -1

    def _catch_up(self, next_token: int) -> None:
        """Fill the batch with what the head has not read yet, and with `next_token`."""
        first = self._read_to
        if not (self._begin < first <= self._end + 1) or self._end - first >= _WINDOW:
            first = max(self._begin + 1, self._end - _WINDOW)
            llama.llama_memory_seq_rm(self._memory, 0, -1, -1)
            self._read_from = first
        elif self._end + _WINDOW - self._read_from > DRAFT_HEAD_TOKENS:
            self._read_from = self._end - DRAFT_HEAD_TOKENS // 2
            llama.llama_memory_seq_rm(self._memory, 0, 0, self._read_from)
        if first > self._end:  # it was read with the last draft, of which nothing was evaluated
            llama.llama_memory_seq_rm(self._memory, 0, self._end, -1)
            first = self._end
        at = first - self._begin
        tokens = [*self._tokens[at : self._end - self._begin].tolist(), next_token]
        self._batch.fill(tokens, first, self._states[at - 1 : self._end - self._begin])

    def _decode(self) -> bool:
        return bool(llama.llama_decode(self._context, self._batch.batch) == 0)


def _rows(pointer: Any, count: int, width: int) -> npt.NDArray[np.float32]:
    """A view [count, width] of libllama's memory."""
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (count, width))


class _Views:
    """Views [count, width] of libllama's memory, made once for each place: to make one takes longer than to use it."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._known: dict[tuple[int, int], npt.NDArray[np.float32]] = {}

    def of(self, pointer: Any, count: int) -> npt.NDArray[np.float32]:
        key = ctypes.cast(pointer, ctypes.c_void_p).value or 0, count
        if key not in self._known:
            if len(self._known) > _KEPT:
                self._known.clear()
            self._known[key] = _rows(pointer, count, self._width)
        return self._known[key]
