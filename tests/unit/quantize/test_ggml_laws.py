"""ggml's bytes, for every type that a recipe can give: zeros at any place do not spoil the weights around them.

ggml has a loop that does (IQ3_S); `quantize.ggml.iq3_s` puts its bytes right.
"""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantize.ggml.iq3_s import move_sub_blocks
from quantize.ggml.library import quantize_rows
from quantize.ggml.types import GGML_TYPES

LENGTH = 512  # two super-blocks
# The RMS error of the weights that are not zero, relative to theirs: half as much again as normal weights have.
BOUNDS = {
    "F16": 0.001, "BF16": 0.005, "Q8_0": 0.01, "Q6_K": 0.035, "Q5_K": 0.06, "Q5_1": 0.07, "Q5_0": 0.08, "Q4_K": 0.13,
    "Q4_1": 0.13, "Q4_0": 0.15, "IQ4_XS": 0.13, "IQ4_NL": 0.13, "MXFP4": 0.2, "Q3_K": 0.27, "IQ3_S": 0.3,
    "IQ3_XXS": 0.36, "Q2_K": 0.5, "IQ2_S": 0.46, "IQ2_XS": 0.54, "IQ2_XXS": 0.6,
}  # fmt: skip
NEED_IMPORTANCE = ("IQ2_XXS", "IQ2_XS")

Floats = npt.NDArray[np.float32]


def quantized(type_name: str, rows: Floats, importance: Floats | None) -> Floats:
    """The weights `rows` [rows, length], quantized and dequantized."""
    ggml_type = GGML_TYPES[type_name]
    packed = np.empty(len(rows) * ggml_type.row_bytes(rows.shape[1]), np.uint8)
    quantize_rows(ggml_type, rows, packed, importance)
    values: Floats = gguf.dequantize(packed.reshape(len(rows), -1), gguf.GGMLQuantizationType(ggml_type.id))
    return values


def error(rows: Floats, values: Floats) -> float:
    """The RMS error of the weights that are not zero, relative to theirs."""
    nonzero = rows != 0
    return float(np.sqrt(np.square(rows - values)[nonzero].sum() / np.square(rows[nonzero]).sum()))


@pytest.mark.parametrize("type_name", BOUNDS)
@settings(max_examples=30)
@given(
    runs=st.lists(st.tuples(st.integers(0, 15), st.integers(1, 8)), max_size=4),
    shift=st.sampled_from([0, 0, 1, 13, 31]),
    zero=st.sampled_from([0.0, -0.0]),
    seed=st.integers(0, 99),
    weighted=st.booleans(),
)
@example(runs=[(0, 1)], shift=0, zero=0.0, seed=0, weighted=False)
@example(runs=[(3, 2), (6, 1)], shift=0, zero=-0.0, seed=0, weighted=False)
def test_zeros_anywhere_leave_the_other_weights_within_the_error_of_their_type(
    type_name: str, runs: list[tuple[int, int]], shift: int, zero: float, seed: int, weighted: bool
) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((2, LENGTH), np.float32)
    for first, count in runs:
        rows[:, 32 * first + shift : 32 * (first + count) + shift] = zero
    if not (rows != 0).any():
        return
    weighted = weighted or type_name in NEED_IMPORTANCE
    importance = random.uniform(0.1, 2, LENGTH).astype(np.float32) if weighted else None
    assert error(rows, quantized(type_name, rows, importance)) < BOUNDS[type_name]


def test_iq3_s_after_zeros_is_what_it_is_beside_tiny_weights() -> None:
    rows = np.random.default_rng(1).standard_normal((4, LENGTH), np.float32)
    for row, first in enumerate((0, 2, 5, 7)):
        rows[row, 32 * first : 32 * first + 32] = 0
    values = quantized("IQ3_S", rows, None)
    beside_tiny = quantized("IQ3_S", np.where(rows == 0, np.float32(1e-30), rows), None)  # ggml does not skip these
    assert np.array_equal(values[rows != 0], beside_tiny[rows != 0])
    assert np.abs(values[rows == 0]).max() < 0.01


def test_super_blocks_without_a_block_of_zeros_keep_their_bytes() -> None:
    rows = np.random.default_rng(2).standard_normal((3, LENGTH), np.float32)
    packed = np.random.default_rng(3).integers(0, 256, 3 * GGML_TYPES["IQ3_S"].row_bytes(LENGTH), np.uint8)
    before = packed.copy()
    move_sub_blocks(rows, packed)
    assert np.array_equal(packed, before)
