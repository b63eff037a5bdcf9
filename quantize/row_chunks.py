"""A few rows of an output tensor: read, widen, transform, quantize.

A `RowChunk` is the unit of work of a worker: rows of one matrix of one tensor, small enough that a worker's memory and
the
time until it can be stopped stay small, whatever the size of the model. `cut` makes the slabs of a tensor; `encode`
turns one into the bytes of the GGUF file. Nothing here knows of files other than the sources, or of threads.
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
from quantize.tensors import Fp8BlockScale, OutputTensor, RowRange, ValueHeadTiling, split_run

# A slab is what a worker does between two looks at the stop flag: 0.15 s of the slowest kernel (IQ2_XS, 0.9 million
# weights a second) and of the slowest of the others (Q2_K with an importance matrix, 7 million). Larger slabs would
# leave the processor's caches, smaller ones cost time in Python, where only one worker runs at a time.
_SLAB_WEIGHTS, _SLOW_SLAB_WEIGHTS = 1 << 20, 1 << 17
_LARGEST_F16 = 65504.0
_SAME_TYPE = {"F32": "F32", "F16": "F16", "BF16": "BF16"}

Files = Mapping[Path, int]


@dataclass(frozen=True, slots=True)
class RowChunk:
    """`rows` rows of a tensor from `first` on, in `matrix` (an expert's number), read from `runs`."""

    first: int
    rows: int
    matrix: int
    runs: tuple[RowRange, ...]


@dataclass(frozen=True)
class ScratchBuffers:
    """A worker's buffers, which grow to the largest slab and are then used again."""

    buffers: dict[str, Bytes]

    def take(self, name: str, n_bytes: int) -> Bytes:
        """`n_bytes` of the buffer `name`, with any content."""
        buffer = self.buffers.get(name)
        if buffer is None or buffer.size < n_bytes:
            buffer = self.buffers[name] = np.empty(n_bytes, np.uint8)
        return buffer[:n_bytes]


def chunk_rows(tensor: OutputTensor, kind: GGMLType) -> int:
    """The most rows of a slab of `tensor`."""
    weights = _SLOW_SLAB_WEIGHTS if kind.name.startswith("IQ") else _SLAB_WEIGHTS
    return max(1, weights // tensor.row_length)


def scratch_bytes(tensor: OutputTensor, kind: GGMLType) -> int:
    """The memory of a worker at a slab of `tensor`: as read, as float32 with a copy of it, as written."""
    source = max(DTYPE_BYTES[run.source.dtype] for run in tensor.runs)
    return min(chunk_rows(tensor, kind), tensor.rows) * (
        tensor.row_length * (source + 4 + 8) + kind.row_bytes(tensor.row_length)
    )


def iter_chunks(tensor: OutputTensor, most: int) -> Iterator[RowChunk]:
    """The slabs of a tensor, in order, of at most `most` rows; none crosses from one matrix to the next."""
    first, parts, taken = 0, list[RowRange](), 0
    for run in tensor.runs:
        at = 0
        while at < run.count:
            room = min(most, tensor.matrix_rows - first % tensor.matrix_rows) - taken
            count = min(room, run.count - at)
            parts.append(split_run(run, at, count))
            at, taken = at + count, taken + count
            if count == room:
                yield RowChunk(first, taken, first // tensor.matrix_rows, tuple(parts))
                first, parts, taken = first + taken, [], 0
    if parts:
        yield RowChunk(first, taken, first // tensor.matrix_rows, tuple(parts))


def quantize_chunk(
    tensor: OutputTensor,
    kind: GGMLType,
    slab: RowChunk,
    importance: ImatrixEntry | None,
    files: Files,
    scratch: ScratchBuffers,
) -> tuple[Bytes, float]:
    """The bytes of a slab as the type `kind`, valid until `scratch` is used again, and the seconds in the kernel."""
    row_bytes = kind.row_bytes(tensor.row_length)
    packed = scratch.take("packed", slab.rows * row_bytes)
    if _is_plain_copy(tensor, kind, slab):
        _read_runs(slab.runs, row_bytes, packed, files)
        return packed, 0.0
    floats = scratch.take("floats", slab.rows * tensor.row_length * 4).view(np.float32)
    floats = floats.reshape(slab.rows, tensor.row_length)
    _widen_runs(slab.runs, floats, files, scratch)
    floats = _compute(tensor, floats)
    largest = _largest(floats)
    if not math.isfinite(largest):
        raise BadCheckpoint(f"{tensor.name} contains values that are not finite", "it is damaged: download it again")
    if kind.name == "F32":
        packed[:] = floats.view(np.uint8).reshape(-1)
        return packed, 0.0
    columns = _mean_squares(importance, slab.matrix, files) if importance else None
    start = time.perf_counter()
    quantize_rows(kind, floats, packed, columns)
    seconds = time.perf_counter() - start
    if largest > _LARGEST_F16 and not is_finite(kind, packed):  # the scales of most types are F16
        hint = "--type BF16 can represent all values of the checkpoint"
        raise BadCheckpoint(f"{tensor.name} contains values that are too large for {kind.name}", hint)
    return packed, seconds


def _largest(floats: Floats) -> float:
    """The largest magnitude; not finite if one of the values is not."""
    ends = float(floats.max()), -float(floats.min())
    return math.nan if any(map(math.isnan, ends)) else max(ends)


def _mean_squares(importance: ImatrixEntry, matrix: int, files: Files) -> Floats:
    """The mean squared activation of each column; ones where an expert was never used, as llama-quantize takes."""
    columns = np.ones(importance.sums.shape[1], np.float32)
    count = importance.counts[matrix]
    if count > 0:
        read_tensor_bytes(importance.sums, matrix * columns.nbytes, columns.view(np.uint8), files)
        columns /= np.float32(count)
    return columns


def _is_plain_copy(tensor: OutputTensor, kind: GGMLType, slab: RowChunk) -> bool:
    same = all(_SAME_TYPE.get(run.source.dtype) == kind.name for run in slab.runs)
    return same and tensor.arithmetic == "copy" and tensor.columns is None


def _compute(tensor: OutputTensor, floats: Floats) -> Floats:
    if tensor.arithmetic == "plus_one":
        floats += 1
    elif tensor.arithmetic == "negative_exp":
        floats = (-np.exp(floats.astype(np.float64))).astype(np.float32)  # correctly rounded, as torch's is
    return _tile_columns(tensor.columns, floats) if tensor.columns else floats


def _tile_columns(columns: ValueHeadTiling, floats: Floats) -> Floats:
    grouped = floats.reshape(-1, columns.key_heads, columns.values_per_key, columns.head_dim)
    return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(floats.shape)


def _read_runs(runs: tuple[RowRange, ...], row_bytes: int, out: Bytes, files: Files) -> None:
    at = 0
    for run in runs:
        end = at + run.count * row_bytes
        read_tensor_bytes(run.source, run.first * row_bytes, out[at:end], files)
        at = end


def _widen_runs(runs: tuple[RowRange, ...], floats: Floats, files: Files, scratch: ScratchBuffers) -> None:
    at, length = 0, floats.shape[1]
    for run in runs:
        row_bytes = length * DTYPE_BYTES[run.source.dtype]
        raw = scratch.take("raw", run.count * row_bytes)
        read_tensor_bytes(run.source, run.first * row_bytes, raw, files)
        part = floats[at : at + run.count]
        if run.scale is None:
            to_float32(run.source.dtype, raw, part.reshape(-1))
        else:
            _widen_fp8(run, run.scale, raw.reshape(part.shape), part, files)
        at += run.count


def _widen_fp8(run: RowRange, scale: Fp8BlockScale, raw: Bytes, floats: Floats, files: Files) -> None:
    """Weights times the factor of their block, both in float32."""
    np.take(fp8_values(), raw, out=floats, mode="clip")
    raw_factors = np.empty(scale.factors.n_bytes, np.uint8)
    read_tensor_bytes(scale.factors, 0, raw_factors, files)
    factors = np.empty(scale.factors.shape, np.float32)
    to_float32(scale.factors.dtype, raw_factors, factors.reshape(-1))
    of_rows = factors[np.arange(run.first, run.first + run.count) // scale.rows]
    floats *= np.repeat(of_rows, scale.columns, axis=1)[:, : floats.shape[1]]


@cache
def fp8_values() -> Floats:
    """The 256 values of float8_e4m3fn: sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinities."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -values, values).astype(np.float32)


def read_tensor_bytes(source: SourceTensor, offset: int, out: Bytes, files: Files) -> None:
    """Fill `out` from the tensor's bytes at `offset`. Raises BadCheckpoint if the file has become shorter."""
    view, at = out.data, source.offset + offset
    while len(view):
        count = os.preadv(files[source.path], [view], at)
        if not count:
            raise BadCheckpoint(f"{source.path.name} shrank while {source.name} was read")
        view, at = view[count:], at + count
