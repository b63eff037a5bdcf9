"""Put right what ggml writes for an IQ3_S super-block in which some sub-blocks are all zeros.

Float rows and ggml's bytes come in; the bytes are corrected in place. `quantize_row_iq3_s_impl` skips a sub-block of 32
zeros without moving its pointers to the grid indices and signs, so those of all later sub-blocks land too early, while
their scales and the ninth bits of their indices are in place. Dequantized, the weights after the zeros are nonsense:
an RMS error of 148 % instead of 14 %. Nothing that ggml computed is lost, so moving the bytes gives the super-block
that it would have written. Its other types have no such loop: the tests compare all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# struct block_iq3_s: a scale (F16), 64 grid indices, 8 bytes of ninth bits, 32 bytes of signs, 4 bytes of scales; each
# of the 8 sub-blocks of 32 weights has 8 indices and 4 bytes of signs.
_BLOCK_BYTES, _SUB_BLOCKS, _SUB_BLOCK_WEIGHTS = 110, 8, 32
_INDICES, _SIGNS = slice(2, 66), slice(74, 106)


def move_sub_blocks(floats: npt.NDArray[np.float32], packed: npt.NDArray[np.uint8]) -> None:
    """Move the indices and signs of `packed` [rows * row bytes] to the sub-blocks that they are of.

    `floats` [rows, row length] are the weights that ggml quantized to `packed`. The zeros get index 0, whose value is
    the smallest that the type has, 1/31 of the scale or less.
    """
    blocks = packed.reshape(-1, _BLOCK_BYTES)
    sub_blocks = floats.reshape(-1, _SUB_BLOCKS, _SUB_BLOCK_WEIGHTS)
    has_weights: npt.NDArray[np.bool_] = np.logical_or.reduce(sub_blocks, axis=2)
    affected = np.flatnonzero(has_weights.sum(axis=1) < _SUB_BLOCKS)
    if not affected.size:
        return
    present = has_weights[affected]
    # Where ggml wrote each sub-block: after those before it that have weights. The first of a super-block that begins
    # with zeros is at place 0, which is also where the zeros look; their bytes are cleared below.
    written_at = np.maximum(present.cumsum(axis=1) - 1, 0)[:, :, np.newaxis]
    for part in (_INDICES, _SIGNS):
        written = blocks[affected, part].reshape(len(affected), _SUB_BLOCKS, -1)
        moved = np.take_along_axis(written, written_at, axis=1) * present[:, :, np.newaxis]
        blocks[affected, part] = moved.reshape(len(affected), -1)
