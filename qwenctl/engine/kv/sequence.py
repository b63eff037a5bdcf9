"""The evaluated tokens of a context with one sequence: how tokens are added, and how the sequence is rolled back.

A prompt that starts with all evaluated tokens only needs its remainder evaluated. One that diverges earlier resumes at
the last checkpoint before the divergence, or from the start if there is none. Prefixes are compared as token ids, never
as text. Images are runs of negative token ids (see `vision.media_items`) and are evaluated as embeddings.
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
from qwenctl.engine.llama.callbacks import CancelFlag
from qwenctl.engine.llama.common_prefix import common_prefix_length
from qwenctl.engine.request_errors import RequestError
from qwenctl.engine.vision.encoder import Embeddings
from qwenctl.engine.vision.media_items import MediaItem
from qwenctl.protocol.messages import RequestFailed

_ABORTED = 2  # llama_decode: stopped by the abort callback
_NO_MEDIA: Mapping[int, MediaItem] = MappingProxyType({})
# Tokens between temporary checkpoints: what a cancelled prefill may lose, unless its batches are larger.
_TEMPORARY_CHECKPOINT_TOKENS = 1024
MAX_REPLAY_TOKENS = 24  # tokens that are evaluated again in one batch with the next token
_LARGE_REPLAY_TOKENS = 4  # with more tokens to replay, nothing is drafted
_MAIN_SEQ, _FORK_SEQ = 0, 1  # llama.cpp's sequence ids: the accepted tokens, and the state before the drafts


class EvalObserver(Protocol):
    """Is notified about evaluated tokens."""

    def on_eval(self, position: int, tokens: Sequence[int], row: int) -> None:
        """`tokens` have just been evaluated: the first at position `position` and at row `row` of the batch."""

    def rollback(self, position: int) -> None:
        """The tokens from position `position` on have been rolled back."""


class KVSequence:
    """The tokens of a context with room for `size` of them.

    Draft tokens can be evaluated before they are accepted (`decode` with drafts, at most `longest_draft`). For their
    rollback the earlier state is kept as a second sequence, at no cost until libllama copies it on the next write.
    After a rollback, the accepted tokens that it undid are replayed in one batch with the next token. `embed` computes
    the embeddings of an image, or returns None if it was cancelled.
    """

    def __init__(
        self,
        context: llama.llama_context_p,
        size: int,
        checkpoints: StateCheckpoints,
        interrupt: CancelFlag,
        longest_draft: int = 0,
        embed: Callable[[MediaItem], Embeddings | None] = lambda _: None,
    ) -> None:
        self.tokens: list[int] = []
        self.size, self.checkpoints = size, checkpoints
        self.observer: EvalObserver | None = None
        self._context, self._interrupt = context, interrupt
        self._drafts = deque[int]()  # evaluated, but not accepted
        self._since_fork: list[int] = []  # accepted and evaluated since the second sequence was made
        self._replay: list[int] = []  # accepted, but rolled back: to be evaluated again
        self._batch = TokenBatch(longest_draft + 1 + MAX_REPLAY_TOKENS)
        self._next, self._next_position = (ctypes.c_int32 * 1)(), (ctypes.c_int32 * 1)()
        self._next_batch = llama.llama_batch_get_one(self._next, 1)
        self._next_batch.pos = self._next_position
        self._embed, self._mrope = embed, MRopeOffsets()

    def reuse_prefix(self, prompt: Sequence[int]) -> int:
        """Roll back to the longest usable prefix of `prompt`; return its length in tokens.

        At least one token of `prompt` is always left to evaluate, since the logits after the last one are needed.
        """
        # If all tokens are a proper prefix of the prompt, nothing needs to be rolled back.
        shared = common_prefix_length(self.tokens, prompt)
        if shared < len(self.tokens) or shared == len(prompt):
            self._rollback_to(min(shared, len(prompt) - 1))
        return len(self.tokens)

    def clear(self) -> None:
        """Drop all tokens, drafts and checkpoints."""
        self._truncate(0)
        self._drafts.clear()
        self._since_fork, self._replay = [], []
        self.checkpoints.discard_after(-1)
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)

    def prefill(
        self,
        prompt: Sequence[int],
        branch_points: Collection[int],
        batch_tokens: int,
        media_items: Mapping[int, MediaItem] = _NO_MEDIA,
    ) -> Generator[int, None, None]:
        """Evaluate what of `prompt` is not evaluated yet; yield the number of evaluated tokens after each batch.

        A checkpoint is saved at each of the positions `branch_points`. `media_items` maps the index of an image's first
        token to the image. On cancellation it returns early, rolled back to the last checkpoint, from which the next
        prefill continues. Raises RequestError if the context is full or out of memory.
        """
        llama.llama_set_abort_callback(self._context, self._interrupt.callback, self._interrupt.address)
        last_temporary = len(self.tokens)
        try:
            for end in _batch_ends(len(self.tokens), len(prompt), branch_points, batch_tokens, media_items):
                part, item = prompt[len(self.tokens) : end], media_items.get(len(self.tokens))
                if self._interrupt or not (self._eval_image(item, batch_tokens) if item else self._eval_tokens(part)):
                    self._rollback_to(len(self.tokens))  # how much of the batch is in the recurrent state is unknown
                    return
                self.tokens += part
                if item is not None:
                    self._mrope.add(end, item)
                if end in branch_points:
                    self.checkpoints.save(end)
                elif end - last_temporary >= _TEMPORARY_CHECKPOINT_TOKENS:
                    self.checkpoints.save_temporary(end)
                    last_temporary = end
                yield end
            self.checkpoints.drop_temporary()
        finally:
            llama.llama_set_abort_callback(self._context, llama.ggml_abort_callback(), None)

    @property
    def has_large_replay(self) -> bool:
        """Whether so many tokens must be replayed that drafting on top of them does not pay."""
        return len(self._replay) > _LARGE_REPLAY_TOKENS

    def decode(self, token: int, drafts: Sequence[int] = ()) -> int:
        """Evaluate `token` and then `drafts`, which are not accepted yet; return the row of `token`'s logits.

        The logits of the drafts are at the rows after it. Call `accept` for each draft that was sampled, then
        `rollback_drafts` before anything else is evaluated. Raises RequestError if the context is full.
        """
        if not (drafts or self._replay):  # the hot path: a batch of one token, whose arrays are reused
            position = self._position()
            self._next[0], self._next_position[0] = token, position
            self._check_status(llama.llama_decode(self._context, self._next_batch))
            if self.observer:
                self.observer.on_eval(position, (token,), 0)
            self.tokens.append(token)
            return 0
        row, batch_tokens = len(self._replay), [*self._replay, token, *drafts]
        position = self._position()
        if drafts:
            # A recurrent state cannot be cut back, so the state before the drafts stays in a second sequence. What is
            # evaluated after the fork, besides the drafts, must be replayed if the fork is restored.
            llama.llama_memory_seq_cp(llama.llama_get_memory(self._context), _MAIN_SEQ, _FORK_SEQ, -1, -1)
            self._since_fork = batch_tokens[: row + 1]
        self._check_status(
            llama.llama_decode(self._context, self._batch.fill(batch_tokens, position, n_logits=1 + len(drafts)))
        )
        self._replay = []
        # The observer has seen the replayed tokens before; only the others are new to it.
        if self.observer:
            self.observer.on_eval(position + row, batch_tokens[row:], row)
        self.tokens.append(token)
        self._drafts.extend(drafts)
        return row

    def use_threads(self, count: int) -> None:
        """Compute with `count` threads."""
        llama.llama_set_n_threads(self._context, count, count)

    def synchronize(self) -> None:
        """Wait until the last batch is computed: with a GPU, `decode` returns before that."""
        llama.llama_synchronize(self._context)

    def accept(self, token: int) -> bool:
        """Accept `token` if it is the next draft; return whether it is."""
        if not self._drafts or self._drafts[0] != token:
            return False
        self.tokens.append(self._drafts.popleft())
        self._since_fork.append(token)
        return True

    def rollback_drafts(self) -> None:
        """Remove the drafts that were not accepted."""
        if not self._since_fork:
            return
        memory = llama.llama_get_memory(self._context)
        if self._drafts:
            end = self._position()
            llama.llama_memory_seq_rm(memory, _MAIN_SEQ, -1, -1)
            llama.llama_memory_seq_cp(memory, _FORK_SEQ, _MAIN_SEQ, -1, -1)
            self._replay = self._since_fork
            if self.observer:
                self.observer.rollback(end)
        llama.llama_memory_seq_rm(memory, _FORK_SEQ, -1, -1)
        self._since_fork = []
        self._drafts.clear()

    def commit(self) -> None:
        """Make the context's state match `tokens`: no drafts, and nothing left to replay. Raises RequestError."""
        self.rollback_drafts()
        if self._replay:
            self._check_status(
                llama.llama_decode(self._context, self._batch.fill(self._replay, self._position(), n_logits=1))
            )
            self._replay = []

    def export_state(self) -> SequenceState:
        """Everything needed to resume from here in another process."""
        state, checkpoints = get_sequence_state(self._context), self.checkpoints.first_and_last()
        return SequenceState(list(self.tokens), state, checkpoints, tuple(self._mrope.spans))

    def restore(self, saved: SequenceState) -> bool:
        """Replace the sequence by a saved state; return whether it fits and libllama accepted it.

        If not, the sequence is empty afterwards.
        """
        self.clear()
        if len(saved.tokens) >= self.size or not set_sequence_state(self._context, saved.state):
            self.clear()
            return False
        self.tokens, self._mrope.spans = list(saved.tokens), list(saved.mrope_spans)
        self.checkpoints.add(saved.checkpoints)
        return True

    def _rollback_to(self, limit: int) -> None:
        """Roll back to the last checkpoint at or before `limit` tokens, or else to the start."""
        length = self.checkpoints.latest(limit)
        if length is None or not self.checkpoints.restore(length, self._mrope.position(length)):
            self.clear()
        else:
            self._truncate(length)

    def _truncate(self, length: int) -> None:
        """Shorten the token list to `length`."""
        del self.tokens[length:]
        self._mrope.truncate(length)

    def _eval_tokens(self, part: Sequence[int]) -> bool:
        """Evaluate text tokens; return False if it was cancelled."""
        tokens, position = (ctypes.c_int32 * len(part))(*part), self._position()  # a batch only points at them
        batch = llama.llama_batch_get_one(tokens, len(part))
        batch.pos = (ctypes.c_int32 * len(part))(*range(position, position + len(part)))
        completed = self._check_status(llama.llama_decode(self._context, batch))
        if completed and self.observer:
            self.observer.on_eval(position, part, 0)
        return completed

    def _eval_image(self, item: MediaItem, batch_tokens: int) -> bool:
        """Evaluate an image; return False if it was cancelled."""
        embeddings = self._embed(item)
        if embeddings is None:
            return False
        batches = image_batches(item, embeddings, self._position(), batch_tokens)
        return all(self._check_status(llama.llama_decode(self._context, batch)) for batch in batches)

    def _position(self) -> int:
        """The position of the next token to evaluate; after images it is less than the token's index."""
        length = len(self.tokens) - len(self._replay)
        return self._mrope.position(length) if self._mrope.spans else length

    def _check_status(self, status: int) -> bool:
        """Return False if `llama_decode` was cancelled. If it failed, clear the sequence and raise RequestError."""
        if status not in (0, _ABORTED):
            self.clear()
            raise RequestError(RequestFailed("memory" if status < 0 else "context", f"llama_decode failed ({status})"))
        return status == 0


def _batch_ends(
    start: int, end: int, branch_points: Collection[int], batch_tokens: int, media_items: Mapping[int, MediaItem]
) -> Iterator[int]:
    """Yield the ends of batches of at most `batch_tokens` from `start` to `end`.

    A batch also ends at each branch point, and each image is a batch of its own, whatever its size.
    """
    ends = (first + item.n_tokens for first, item in media_items.items())
    for stop in sorted({stop for stop in (*branch_points, *media_items, *ends) if start < stop < end} | {end}):
        while start < stop:
            start = start + media_items[start].n_tokens if start in media_items else min(start + batch_tokens, stop)
            yield start
