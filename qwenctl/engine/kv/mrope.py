"""M-RoPE positions of tokens in a prompt with images.

The tokens of an image lie on a two-dimensional grid (M-RoPE). All of them share the temporal position of the first, and
the text after the image continues at that position plus the longer side of the grid. A token's position is therefore
its index minus the positions that the images before it have saved.
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
    """The images among the evaluated tokens.

    `spans` holds a pair for each: its end, as a token index, and the number of positions that it saves.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def position(self, length: int) -> int:
        """The M-RoPE position of the token that follows the first `length` tokens."""
        return length - sum(saved for end, saved in self.spans if end <= length)

    def add(self, end: int, item: MediaItem) -> None:
        """Add an image whose last token is at index `end - 1`."""
        self.spans.append((end, item.n_tokens - item.n_positions))

    def truncate(self, length: int) -> None:
        """Forget the images that end after the first `length` tokens."""
        self.spans = [(end, saved) for end, saved in self.spans if end <= length]


def image_batches(
    item: MediaItem, embeddings: npt.NDArray[np.float32], position: int, max_tokens: int, sequence: int = 0
) -> Iterator[llama.llama_batch]:
    """Yield llama_batches of at most `max_tokens` tokens of an image, whose first token is at `position` (M-RoPE).

    `embeddings` is [tokens of the image, width of the model]. A batch points into arrays that are freed when the next
    one is made, so evaluate each batch before taking the next.
    """
    sequence_list = ctypes.cast((ctypes.c_int32 * 1)(sequence), ctypes.POINTER(ctypes.c_int32))
    indices = np.arange(item.n_tokens, dtype=np.int32)
    rows, columns = divmod(indices, item.size.columns)
    # [4, tokens]: time, row, column, unused; the layout of mtmd_helper_decode_image_chunk in llama.cpp.
    positions = np.stack([np.zeros_like(indices), rows, columns, np.zeros_like(indices)])
    positions[:3] += position
    for start in range(0, item.n_tokens, max_tokens):
        part = np.ascontiguousarray(embeddings[start : start + max_tokens])
        batch_positions = np.ascontiguousarray(positions[:, start : start + max_tokens])
        batch: Any = llama.llama_batch_get_one(None, len(part))
        batch.embd = np.ctypeslib.as_ctypes(part.reshape(-1))
        batch.pos = np.ctypeslib.as_ctypes(batch_positions.reshape(-1))
        batch.logits = (ctypes.c_int8 * len(part))()
        batch.n_seq_id = (ctypes.c_int32 * len(part))(*[1] * len(part))
        batch.seq_id = (ctypes.POINTER(ctypes.c_int32) * len(part))(*[sequence_list] * len(part))
        yield batch
