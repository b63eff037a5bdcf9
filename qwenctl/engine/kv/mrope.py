"""Positions of tokens where pictures stand among them.

The tokens of a picture lie in two dimensions (M-RoPE): all have the position of its first one, and what follows has
one that is higher by its longer side. So positions are numbers of tokens, less what each picture before has saved.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from qwenctl.engine.vision.media_items import MediaItem


class MRopeOffsets:
    """The pictures among the tokens that are held: where each ends, and how many positions it saves."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def position(self, length: int) -> int:
        """Of the token that follows `length` tokens."""
        return length - sum(saved for end, saved in self.spans if end <= length)

    def add(self, end: int, view: MediaItem) -> None:
        """A picture whose last token is the one before `end`."""
        self.spans.append((end, view.n_tokens - view.n_positions))

    def truncate(self, length: int) -> None:
        """Forget what is beyond `length` tokens."""
        self.spans = [(end, saved) for end, saved in self.spans if end <= length]


def image_batches(
    view: MediaItem, embeddings: npt.NDArray[np.float32], position: int, most: int, sequence: int = 0
) -> Iterator[llama.llama_batch]:
    """Batches of at most `most` tokens of a picture whose first token is at `position`; each is used up at once."""
    own = ctypes.cast((ctypes.c_int32 * 1)(sequence), ctypes.POINTER(ctypes.c_int32))
    places = np.arange(view.n_tokens, dtype=np.int32)
    rows, columns = divmod(places, view.size.columns)
    # As mtmd_helper_decode_image_chunk of llama.cpp lays them out: time, row, column, and one that is not used.
    positions = np.stack([np.zeros_like(places), rows, columns, np.zeros_like(places)])
    positions[:3] += position
    for start in range(0, view.n_tokens, most):
        part = np.ascontiguousarray(embeddings[start : start + most])
        where = np.ascontiguousarray(positions[:, start : start + most])
        batch: Any = llama.llama_batch_get_one(None, len(part))
        batch.embd = np.ctypeslib.as_ctypes(part.reshape(-1))
        batch.pos = np.ctypeslib.as_ctypes(where.reshape(-1))
        batch.logits = (ctypes.c_int8 * len(part))()
        batch.n_seq_id = (ctypes.c_int32 * len(part))(*[1] * len(part))
        batch.seq_id = (ctypes.POINTER(ctypes.c_int32) * len(part))(*[own] * len(part))
        yield batch
