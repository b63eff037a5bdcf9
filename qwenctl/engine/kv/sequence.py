"""What a context holds of its one sequence: which tokens it has evaluated, how more are added, and how it goes back.

A prompt that goes on from all tokens held is appended. One that parts from them earlier goes on from the last snapshot
before the parting, and is read from its start only where there is none. Tokens are compared as tokens, never as text.
Pictures are runs of tokens with numbers below zero (see `views`), and are evaluated as embeddings.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import llama_cpp.llama_cpp as llama

from qwenctl.engine.kv.mrope import MRopeOffsets, image_batches
from qwenctl.engine.kv.snapshots import StateCheckpoints, get_sequence_state, set_sequence_state
from qwenctl.engine.kv.state_file import SequenceState
from qwenctl.engine.kv.token_batch import TokenBatch
from qwenctl.engine.llama.cancellation import CancelFlag
from qwenctl.engine.llama.tokens import common_prefix_length
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.encoder import Embeddings
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.messages import RequestFailed

_ABORTED = 2  # llama_decode: stopped by the abort callback
_NO_VIEWS: Mapping[int, MediaItem] = MappingProxyType({})
_PASSING_TOKENS = 1024  # what a reading that is stopped may lose, if batches are not larger


MAX_REPLAY_TOKENS = 24  # that are evaluated again at most, with the next token
_LITTLE_OWED = 4
_MAIN_SEQ, _FORK_SEQ = 0, 1  # sequences of the context: what is held, and what was held before a draft


class EvalObserver(Protocol):
    """Who wants to know what is evaluated."""

    def on_eval(self, position: int, tokens: Sequence[int], row: int) -> None:
        """These tokens have just been evaluated, the first at `position`, at the row `row` of the batch."""

    def rollback(self, position: int) -> None:
        """What was evaluated from `position` on is not held."""


class KVSequence:
    """The tokens of a context; `size` of them fit.

    Tokens may be evaluated ahead that are not held yet (`decode` with drafts, at most `longest_draft`). To take them
    back, the state before them is kept as a second sequence, which costs nothing: libllama copies it when it is
    written to. What of them was held all the same is then evaluated again, with the next token. `embed` tells what a
    picture is to the model.
    """

    def __init__(
        self,
        context: llama.llama_context_p,
        size: int,
        snapshots: StateCheckpoints,
        interrupt: CancelFlag,
        longest_draft: int = 0,
        embed: Callable[[MediaItem], Embeddings | None] = lambda _: None,
    ) -> None:
        self.tokens: list[int] = []
        self.size, self.snapshots = size, snapshots
        self.listener: EvalObserver | None = None
        self._context, self._interrupt = context, interrupt
        self._drafts = deque[int]()  # evaluated, but not held
        self._since_fork: list[int] = []  # held and evaluated since the second sequence was made
        self._replay: list[int] = []  # held, but to be evaluated again
        self._batch = TokenBatch(longest_draft + 1 + MAX_REPLAY_TOKENS)
        self._next, self._next_position = (ctypes.c_int32 * 1)(), (ctypes.c_int32 * 1)()
        self._next_batch = llama.llama_batch_get_one(self._next, 1)
        self._next_batch.pos = self._next_position
        self._embed, self._folds = embed, MRopeOffsets()

    def reuse_prefix(self, prompt: Sequence[int]) -> int:
        """Make the sequence a beginning of `prompt`, as long as can be, but not all of it; its length."""
        shared = common_prefix_length(self.tokens, prompt)
        if shared < len(self.tokens) or shared == len(prompt):
            self._rollback_to(min(shared, len(prompt) - 1))
        return len(self.tokens)

    def clear(self) -> None:
        """Forget all tokens."""
        self._cut(0)
        self._drafts.clear()
        self._since_fork, self._replay = [], []
        self.snapshots.discard_after(-1)
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)

    def prefill(
        self,
        prompt: Sequence[int],
        marks: Collection[int],
        batch_tokens: int,
        views: Mapping[int, MediaItem] = _NO_VIEWS,
    ) -> Generator[int, None, None]:
        """Evaluate what follows the tokens held in `prompt`; yield after each batch how many tokens are held.

        At the positions `marks` a snapshot is taken; `views` are pictures, by their first token. If interrupted it ends
        early, at the last snapshot, and the next reading goes on from there.
        """
        llama.llama_set_abort_callback(self._context, self._interrupt.callback, self._interrupt.address)
        passed = len(self.tokens)
        try:
            for end in _batch_ends(len(self.tokens), len(prompt), marks, batch_tokens, views):
                part, view = prompt[len(self.tokens) : end], views.get(len(self.tokens))
                if self._interrupt or not (self._eval_image(view, batch_tokens) if view else self._eval_tokens(part)):
                    self._rollback_to(len(self.tokens))  # how much of the batch the state has seen is not known
                    return
                self.tokens += part
                if view is not None:
                    self._folds.add(end, view)
                if end in marks:
                    self.snapshots.save(end)
                elif end - passed >= _PASSING_TOKENS:
                    self.snapshots.save_temporary(end)
                    passed = end
                yield end
            self.snapshots.drop_temporary()
        finally:
            llama.llama_set_abort_callback(self._context, llama.ggml_abort_callback(), None)

    @property
    def has_large_replay(self) -> bool:
        """Whether so much is to be evaluated again that nothing should be drafted with it."""
        return len(self._replay) > _LITTLE_OWED

    def decode(self, token: int, drafts: Sequence[int] = ()) -> int:
        """Evaluate one token, and after it `drafts`, which are not held; the row of the token's logits.

        Those of the drafts are at the rows after it. Each draft is held once `accept` is called with it; what is
        left is taken back by `rollback_drafts`, before anything else is done. Raises RequestError if the context is
        full.
        """
        if not (drafts or self._replay):  # nearly always, and then every microsecond counts
            position = self._folds.position(len(self.tokens))
            self._next[0], self._next_position[0] = token, position
            self._check_status(llama.llama_decode(self._context, self._next_batch))
            self._notify(position, (token,), 0)
            self.tokens.append(token)
            return 0
        row, fed = len(self._replay), [*self._replay, token, *drafts]
        position = self._position()
        if drafts:
            llama.llama_memory_seq_cp(llama.llama_get_memory(self._context), _MAIN_SEQ, _FORK_SEQ, -1, -1)
            self._since_fork = fed[: row + 1]
        self._check_status(llama.llama_decode(self._context, self._batch.fill(fed, position, wanted=1 + len(drafts))))
        self._replay = []
        self._notify(position + row, fed[row:], row)
        self.tokens.append(token)
        self._drafts.extend(drafts)
        return row

    def synchronize(self) -> None:
        """Until what was evaluated last is there: a GPU goes on after `decode`."""
        llama.llama_synchronize(self._context)

    def accept(self, token: int) -> bool:
        """Hold `token`, if it is the next one that was drafted; whether it was."""
        if not self._drafts or self._drafts[0] != token:
            return False
        self.tokens.append(self._drafts.popleft())
        self._since_fork.append(token)
        return True

    def rollback_drafts(self) -> None:
        """Take back the drafts that are not held."""
        if not self._since_fork:
            return
        memory = llama.llama_get_memory(self._context)
        if self._drafts:
            end = self._position()
            llama.llama_memory_seq_rm(memory, _MAIN_SEQ, -1, -1)
            llama.llama_memory_seq_cp(memory, _FORK_SEQ, _MAIN_SEQ, -1, -1)
            self._replay = self._since_fork
            if self.listener:
                self.listener.rollback(end)
        llama.llama_memory_seq_rm(memory, _FORK_SEQ, -1, -1)
        self._since_fork = []
        self._drafts.clear()

    def commit(self) -> None:
        """Make the context hold what is held: no drafts, and nothing that is to be evaluated again."""
        self.rollback_drafts()
        if self._replay:
            self._check_status(
                llama.llama_decode(self._context, self._batch.fill(self._replay, self._position(), wanted=1))
            )
            self._replay = []

    def export_state(self) -> SequenceState:
        """All that is needed to go on from here on another day."""
        state, ends = get_sequence_state(self._context), self.snapshots.first_and_last()
        return SequenceState(list(self.tokens), state, ends, tuple(self._folds.spans))

    def restore(self, saved: SequenceState) -> bool:
        """Put a saved state in the place of what is held; whether libllama took it."""
        self.clear()
        if len(saved.tokens) >= self.size or not set_sequence_state(self._context, saved.state):
            self.clear()
            return False
        self.tokens, self._folds.spans = list(saved.tokens), list(saved.folds)
        self.snapshots.add(saved.snapshots)
        return True

    def _rollback_to(self, limit: int) -> None:
        """To the last snapshot that is not beyond `limit` tokens, or to the start."""
        length = self.snapshots.latest(limit)
        if length is None or not self.snapshots.restore(length, self._folds.position(length)):
            self.clear()
        else:
            self._cut(length)

    def _cut(self, length: int) -> None:
        """Hold `length` tokens from now on."""
        del self.tokens[length:]
        self._folds.truncate(length)

    def _eval_tokens(self, part: Sequence[int]) -> bool:
        """Evaluate tokens of text; whether it was not interrupted."""
        tokens, position = (ctypes.c_int32 * len(part))(*part), self._position()  # a batch only points at them
        batch = llama.llama_batch_get_one(tokens, len(part))
        batch.pos = (ctypes.c_int32 * len(part))(*range(position, position + len(part)))
        done = self._check_status(llama.llama_decode(self._context, batch))
        if done:
            self._notify(position, part, 0)
        return done

    def _eval_image(self, view: MediaItem, batch_tokens: int) -> bool:
        """Evaluate a picture; whether it was not interrupted."""
        embeddings = self._embed(view)
        if embeddings is None:
            return False
        batches = image_batches(view, embeddings, self._position(), batch_tokens)
        return all(self._check_status(llama.llama_decode(self._context, batch)) for batch in batches)

    def _position(self) -> int:
        """Of what is evaluated next; with pictures before it not its number."""
        return self._folds.position(len(self.tokens) - len(self._replay))

    def _notify(self, position: int, tokens: Sequence[int], row: int) -> None:
        if self.listener:
            self.listener.on_eval(position, tokens, row)

    def _check_status(self, status: int) -> bool:
        """Whether `llama_decode` did its work; not if it was interrupted. Raises RequestFailure if it could not."""
        if status not in (0, _ABORTED):
            self.clear()
            raise RequestError(RequestFailed("memory" if status < 0 else "context", f"llama_decode failed ({status})"))
        return status == 0


def _batch_ends(
    start: int, end: int, marks: Collection[int], batch_tokens: int, views: Mapping[int, MediaItem]
) -> Iterator[int]:
    """Where batches of at most `batch_tokens` end, and views, from `start` to `end`; each mark between is one."""
    ends = (at + view.n_tokens for at, view in views.items())
    for stop in sorted({stop for stop in (*marks, *views, *ends) if start < stop < end} | {end}):
        while start < stop:
            start = start + views[start].n_tokens if start in views else min(start + batch_tokens, stop)
            yield start
