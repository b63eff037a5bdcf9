"""The model's own draft head: its multi-token-prediction (MTP) block, in a context of its own.

The tokens that the model evaluates come in, with the state of its last layer for each; a prediction of what follows
goes out. The head reads position i as the token there and the model's state at i - 1, so both are saved for the last
tokens, and the head reads them when a draft is needed and not before: a prompt costs it nothing. It looks back
`_WINDOW` tokens at most, since the state that it is given depends on all of them; so its cache is small, and as fast at
any depth. Order of calls: common/speculative.cpp of llama.cpp, `common_speculative_impl_draft_mtp`. Whether a
prediction is right is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import llama_cpp.llama_cpp as llama
import numpy as np
from llama_cpp import llama_cpp_ext

from qwenctl.engine.kv.token_batch import TokenBatch
from qwenctl.engine.llama.logits_view import LogitsView
from qwenctl.models.context_memory import MTP_HEAD_TOKENS

_WINDOW = 64  # tokens before the next one that are read at most, if the head has not read them yet
MAX_HEAD_BATCH = _WINDOW + 1
_MIN_STATES = 8  # fewer tell too little for a prediction
_SAVED_STATES = 256  # of the last tokens


class MtpDrafter:
    """The MTP head of a model whose context is `target`; `context` is its own.

    States have `state_size` numbers, logits `vocabulary_size`.
    """

    def __init__(
        self, target: llama.llama_context_p, context: llama.llama_context_p, state_size: int, vocabulary_size: int
    ) -> None:
        self._target, self._context, self._memory = target, context, llama.llama_get_memory(context)
        self._batch = TokenBatch(MAX_HEAD_BATCH, state_size)
        self._states = np.zeros((_SAVED_STATES, state_size), np.float32)
        self._tokens = np.zeros(_SAVED_STATES, np.int32)
        self._begin = self._end = 0  # positions of the saved tokens
        self._read_from = self._read_to = 0  # positions of the tokens in the head's cache
        self._assumed = -1  # the token that was read at the last of them, although it was not evaluated yet
        self._target_view = LogitsView(target, vocabulary_size, state_size)
        self._view = LogitsView(context, vocabulary_size, state_size)
        llama_cpp_ext.llama_set_embeddings_nextn(context, True, False)

    def use_threads(self, count: int) -> None:
        """Compute with `count` threads."""
        llama.llama_set_n_threads(self._context, count, count)

    def set_capture(self, *, on: bool) -> None:
        """Have the model put out its states from now on, or spare it that."""
        self._end = self._begin
        llama_cpp_ext.llama_set_embeddings_nextn(self._target, on, False)

    def on_eval(self, position: int, tokens: Sequence[int], row: int) -> None:
        """Save `tokens`, which the model has just evaluated from `position` on, and their states, from `row` on."""
        if not self._begin <= position <= self._end:
            self._begin = self._end = position
        self._forget_from(position, tokens[0])
        states = self._target_view.states(row + len(tokens))
        count, n_saved = min(len(tokens), _SAVED_STATES), position - self._begin
        if n_saved + len(tokens) > _SAVED_STATES:  # drop half of them, so that not each token moves all others
            before, n_saved = n_saved, min(n_saved, max(0, _SAVED_STATES // 2 - count))
            self._states[:n_saved] = self._states[before - n_saved : before].copy()
            self._tokens[:n_saved] = self._tokens[before - n_saved : before].copy()
        self._states[n_saved : n_saved + count] = states[row + len(tokens) - count : row + len(tokens)]
        self._tokens[n_saved : n_saved + count] = tokens[-count:]
        self._end = position + len(tokens)
        self._begin = self._end - count - n_saved

    def rollback(self, position: int) -> None:
        """Forget what the model has evaluated from `position` on: those drafts were wrong."""
        self._end = max(self._begin, min(self._end, position))

    @property
    def is_ready(self) -> bool:
        """Whether the states of enough tokens are saved for a prediction."""
        return self._end - self._begin >= _MIN_STATES

    def draft(self, next_token: int, length: int) -> list[int]:
        """The `length` tokens that may follow `next_token`, which is evaluated next; fewer if libllama fails."""
        if self._end == self._begin:
            return []
        self._catch_up(next_token)
        draft: list[int] = []
        position = self._end
        while self._decode():
            row = self._batch.size - 1
            token = int(self._view.row(row).argmax())
            draft.append(token)
            if len(draft) == length:
                break
            position += 1
            self._batch.fill([token], position, self._view.state(row))
        # What was read of the draft is forgotten; `next_token` stays, for the model will evaluate it.
        llama.llama_memory_seq_rm(self._memory, 0, self._end + 1, -1)
        self._read_to, self._assumed = self._end + 1, next_token
        return draft

    def _forget_from(self, position: int, token: int) -> None:
        """Forget what was read from `position` on, unless it is only `token`, as was assumed."""
        if position == self._read_to - 1 and token == self._assumed:
            return
        if position < self._read_to:
            llama.llama_memory_seq_rm(self._memory, 0, position, -1)
            self._read_to = position
        self._assumed = -1

    def _catch_up(self, next_token: int) -> None:
        """Fill the batch with the saved tokens that the head has not read yet, and with `next_token`.

        After a gap of more than `_WINDOW` tokens its cache is cleared; before it is full, the older half is dropped.
        """
        first = self._read_to
        if not (self._begin < first <= self._end + 1) or self._end - first >= _WINDOW:
            first = max(self._begin + 1, self._end - _WINDOW)
            llama.llama_memory_seq_rm(self._memory, 0, -1, -1)
            self._read_from = first
        elif self._end + _WINDOW - self._read_from > MTP_HEAD_TOKENS:
            self._read_from = self._end - MTP_HEAD_TOKENS // 2
            llama.llama_memory_seq_rm(self._memory, 0, 0, self._read_from)
        if first > self._end:  # `next_token` was read with the last draft, of which nothing was evaluated
            llama.llama_memory_seq_rm(self._memory, 0, self._end, -1)
            first = self._end
        at = first - self._begin
        tokens = [*self._tokens[at : self._end - self._begin].tolist(), next_token]
        self._batch.fill(tokens, first, self._states[at - 1 : self._end - self._begin])

    def _decode(self) -> bool:
        return bool(llama.llama_decode(self._context, self._batch.batch) == 0)
