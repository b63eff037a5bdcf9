"""Read, convert to float32, transform and quantize a few rows of an output tensor.

A `RowChunk` is a worker's unit of work: rows of one matrix of one tensor, small enough that a worker's memory and the
time until it can be stopped stay small, whatever the size of the model. `iter_chunks` divides a tensor into chunks;
`quantize_chunk` turns a chunk into the bytes of the GGUF file. Output files and threads are not known here.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from quantize.checkpoint import DTYPE_BYTES, SourceTensor
from quantize.errors import BadCheckpoint
from quantize.ggml.library import Bytes, Floats, is_finite, quantize_rows, to_float32
from quantize.ggml.types import GGMLType
from quantize.recipe.imatrix import ImatrixEntry
from quantize.tensors import Fp8BlockScale, OutputTensor, RowRange, ValueHeadTiling, split_range

# A worker checks the stop flag between chunks. A chunk takes 0.15 s with the slowest kernel (IQ2_XS, 0.9 million
# weights per second), and also with the slowest of the others (Q2_K with an importance matrix, 7 million per second).
# Larger chunks would not fit the CPU caches; smaller ones cost time in Python, where only one worker runs at a time.
_CHUNK_WEIGHTS, _SLOW_CHUNK_WEIGHTS = 1 << 20, 1 << 17
_MAX_F16 = 65504.0
_SAME_TYPE = {"F32": "F32", "F16": "F16", "BF16": "BF16"}

Files = Mapping[Path, int]


@dataclass(frozen=True, slots=True)
class RowChunk:
    """`rows` rows of an output tensor from row `first` on, all in `matrix` (the expert's index), read from `ranges`."""

    first: int
    rows: int
    matrix: int
    ranges: tuple[RowRange, ...]


@dataclass(frozen=True)
class ScratchBuffers:
    """A worker's buffers by name; they grow to the largest chunk and are reused."""

    buffers: dict[str, Bytes]

    def take(self, name: str, n_bytes: int) -> Bytes:
        """Return `n_bytes` of the buffer `name`, with undefined content; it aliases earlier results for that name."""
        buffer = self.buffers.get(name)
        if buffer is None or buffer.size < n_bytes:
            buffer = self.buffers[name] = np.empty(n_bytes, np.uint8)
        return buffer[:n_bytes]


def chunk_rows(tensor: OutputTensor, ggml_type: GGMLType) -> int:
    """The maximum number of rows in a chunk of `tensor`."""
    weights = _SLOW_CHUNK_WEIGHTS if ggml_type.name.startswith("IQ") else _CHUNK_WEIGHTS
    return max(1, weights // tensor.row_length)


def scratch_bytes(tensor: OutputTensor, ggml_type: GGMLType) -> int:
    """A worker's memory in bytes for a chunk of `tensor`: source bytes, float32 with one copy, and quantized bytes."""
    source = max(DTYPE_BYTES[row_range.source.dtype] for row_range in tensor.ranges)
    return min(chunk_rows(tensor, ggml_type), tensor.rows) * (
        tensor.row_length * (source + 4 + 8) + ggml_type.row_bytes(tensor.row_length)
    )


def iter_chunks(tensor: OutputTensor, max_rows: int) -> Iterator[RowChunk]:
    """Divide a tensor into chunks of at most `max_rows` rows, in order; no chunk crosses a matrix boundary."""
    first, parts, n_taken = 0, list[RowRange](), 0
    for row_range in tensor.ranges:
        offset = 0
        while offset < row_range.count:
            # A chunk ends at `max_rows` or at the end of its matrix; it may consist of pieces of several row ranges.
            capacity = min(max_rows, tensor.matrix_rows - first % tensor.matrix_rows) - n_taken
            count = min(capacity, row_range.count - offset)
            parts.append(split_range(row_range, offset, count))
            offset, n_taken = offset + count, n_taken + count
            if count == capacity:
                yield RowChunk(first, n_taken, first // tensor.matrix_rows, tuple(parts))
                first, parts, n_taken = first + n_taken, [], 0
    if parts:
        yield RowChunk(first, n_taken, first // tensor.matrix_rows, tuple(parts))


def quantize_chunk(
    tensor: OutputTensor,
    ggml_type: GGMLType,
    chunk: RowChunk,
    importance: ImatrixEntry | None,
    files: Files,
    scratch: ScratchBuffers,
) -> tuple[Bytes, float]:
    """Quantize a chunk to `ggml_type`; returns its packed bytes [rows * row bytes] and the seconds spent in the kernel.

    The bytes are a view into `scratch`, valid until its next use. Raises BadCheckpoint for values that are not finite
    or that overflow the type.
    """
    row_bytes = ggml_type.row_bytes(tensor.row_length)
    packed = scratch.take("packed", chunk.rows * row_bytes)
    if _is_plain_copy(tensor, ggml_type, chunk):  # the source bytes are the output bytes
        _read_ranges(chunk.ranges, row_bytes, packed, files)
        return packed, 0.0
    floats = scratch.take("floats", chunk.rows * tensor.row_length * 4).view(np.float32)
    floats = floats.reshape(chunk.rows, tensor.row_length)
    _read_float32(chunk.ranges, floats, files, scratch)
    floats = _apply_transform(tensor, floats)
    magnitude = _max_magnitude(floats)
    if not math.isfinite(magnitude):
        raise BadCheckpoint(f"{tensor.name} contains values that are not finite", "it is damaged: download it again")
    if ggml_type.name == "F32":
        packed[:] = floats.view(np.uint8).reshape(-1)
        return packed, 0.0
    column_weights = _read_mean_squares(importance, chunk.matrix, files) if importance else None
    start = time.perf_counter()
    quantize_rows(ggml_type, floats, packed, column_weights)
    seconds = time.perf_counter() - start
    # The scales of most types are F16, so values above its range can overflow. Only then is the slow check needed.
    if magnitude > _MAX_F16 and not is_finite(ggml_type, packed):
        hint = "--type BF16 can represent all values of the checkpoint"
        raise BadCheckpoint(f"{tensor.name} contains values that are too large for {ggml_type.name}", hint)
    return packed, seconds


def _max_magnitude(floats: Floats) -> float:
    """The largest magnitude of `floats`; NaN or infinity if any value is."""
    # Two reductions, without a temporary array; NumPy's max and min propagate NaN.
    extremes = float(floats.max()), -float(floats.min())
    return math.nan if any(map(math.isnan, extremes)) else max(extremes)


def _read_mean_squares(importance: ImatrixEntry, matrix: int, files: Files) -> Floats:
    """Read the mean squared activation of each column [columns]; like llama-quantize, 1 for an expert never used."""
    weights = np.ones(importance.sums.shape[1], np.float32)
    count = importance.counts[matrix]
    if count > 0:
        read_tensor_bytes(importance.sums, matrix * weights.nbytes, weights.view(np.uint8), files)
        weights /= np.float32(count)
    return weights


def _is_plain_copy(tensor: OutputTensor, ggml_type: GGMLType, chunk: RowChunk) -> bool:
    """Whether a chunk is stored in the type of its sources, without a transform or reordered columns."""
    same_dtype = all(_SAME_TYPE.get(row_range.source.dtype) == ggml_type.name for row_range in chunk.ranges)
    return same_dtype and tensor.transform == "copy" and tensor.column_tiling is None


def _apply_transform(tensor: OutputTensor, floats: Floats) -> Floats:
    """Apply the transform of `tensor` to `floats` [rows, row length], in place where possible."""
    if tensor.transform == "plus_one":  # checkpoints store norm weights minus one
        floats += 1
    elif tensor.transform == "negative_exp":
        # In float64, so that the result is correctly rounded, as torch's is.
        floats = (-np.exp(floats.astype(np.float64))).astype(np.float32)
    return _tile_columns(tensor.column_tiling, floats) if tensor.column_tiling else floats


def _tile_columns(tiling: ValueHeadTiling, floats: Floats) -> Floats:
    """Reorder the columns of `floats` [rows, value heads * head dim] from grouped to tiled."""
    # [rows, key heads, values per key, head dim] -> [rows, values per key, key heads, head dim]
    grouped = floats.reshape(-1, tiling.key_heads, tiling.values_per_key, tiling.head_dim)
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(floats.shape)


def _read_ranges(ranges: tuple[RowRange, ...], row_bytes: int, out: Bytes, files: Files) -> None:
    """Read the bytes of consecutive row ranges into `out` [rows * row bytes]."""
    offset = 0
    for row_range in ranges:
        end = offset + row_range.count * row_bytes
        read_tensor_bytes(row_range.source, row_range.first * row_bytes, out[offset:end], files)
        offset = end


def _read_float32(ranges: tuple[RowRange, ...], floats: Floats, files: Files, scratch: ScratchBuffers) -> None:
    """Read consecutive row ranges into `floats` [rows, row length], converted from their source types."""
    first_row, length = 0, floats.shape[1]
    for row_range in ranges:
        row_bytes = length * DTYPE_BYTES[row_range.source.dtype]
        raw = scratch.take("raw", row_range.count * row_bytes)
        read_tensor_bytes(row_range.source, row_range.first * row_bytes, raw, files)
        rows = floats[first_row : first_row + row_range.count]
        if row_range.scale is None:
            to_float32(row_range.source.dtype, raw, rows.reshape(-1))
        else:
            _dequantize_fp8(row_range, row_range.scale, raw.reshape(rows.shape), rows, files)
        first_row += row_range.count


def _dequantize_fp8(row_range: RowRange, scale: Fp8BlockScale, raw: Bytes, floats: Floats, files: Files) -> None:
    """Multiply the FP8 weights `raw` [rows, columns] by the scale of their block, in float32, into `floats`."""
    np.take(fp8_values(), raw, out=floats, mode="clip")  # "clip" writes to `out` without a temporary array
    # One factor per block: pick the block row of each row, then repeat the factors across each block's columns. The
    # last block may extend past the tensor, so the result is cut to its width.
    block_rows = [scale.block_row(row) for row in range(row_range.first, row_range.first + row_range.count)]
    first, count, columns = block_rows[0], block_rows[-1] + 1 - block_rows[0], scale.factors.shape[-1]
    row_bytes = columns * DTYPE_BYTES[scale.factors.dtype]
    raw_factors = np.empty(count * row_bytes, np.uint8)
    read_tensor_bytes(scale.factors, first * row_bytes, raw_factors, files)
    factors = np.empty((count, columns), np.float32)
    if scale.factors.dtype == "F8_E8M0":
        np.take(power_of_two_values(), raw_factors, out=factors.reshape(-1), mode="clip")
    else:
        to_float32(scale.factors.dtype, raw_factors, factors.reshape(-1))
    row_factors = factors[np.subtract(block_rows, first)]
    floats *= np.repeat(row_factors, scale.block_columns, axis=1)[:, : floats.shape[1]]


@cache
def power_of_two_values() -> Floats:
    """The float32 value of each float8_e8m0fnu code [256]: 2^(code - 127); the last code is NaN."""
    values = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan)
    return values.astype(np.float32)


@cache
def fp8_values() -> Floats:
    """The float32 value of each float8_e4m3fn code [256]: sign, 4 exponent bits (bias 7), 3 mantissa bits.

    The format has no infinities; the codes with all exponent and mantissa bits set are NaN.
    """
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    # Exponent 0 means subnormal: no implicit 1, and the exponent of the smallest normal numbers.
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float32)


def read_tensor_bytes(source: SourceTensor, offset: int, out: Bytes, files: Files) -> None:
    """Fill `out` with the tensor's bytes from `offset` on. Raises BadCheckpoint if the file has become shorter."""
    view, position = out.data, source.offset + offset
    while len(view):  # preadv may read less than requested; it uses no shared file position, unlike read
        count = os.preadv(files[source.path], [view], position)
        if not count:
            raise BadCheckpoint(f"{source.path.name} shrank while {source.name} was read")
        view, position = view[count:], position + count
