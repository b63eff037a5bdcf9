"""The values that describe a tensor of the output before a weight is read.

An `OutputTensor` says which runs of rows of which source tensors, in which order and with which arithmetic, make it.
Every transform of the Qwen3.5 family is of this form, so that any tensor can be made a few rows at a time:
splitting packed experts, stacking single ones, tiling value heads, taking one of two frames of a patch.
`CheckpointIndex` finds source tensors by name, checks their shapes, and remembers what was missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantize.checkpoint import Checkpoint, SourceTensor
from quantize.errors import BadCheckpoint

Arithmetic = Literal["copy", "plus_one", "negative_exp"]
_FLOATS = ("BF16", "F16", "F32")
_NOWHERE = Path()


@dataclass(frozen=True, slots=True)
class Fp8BlockScale:
    """The factors of a block-scaled FP8 tensor: one of `factors` for each block of `rows` x `columns` weights."""

    factors: SourceTensor
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class RowRange:
    """`count` consecutive rows of `source` from `first` on, with its `scale` if it is FP8."""

    source: SourceTensor
    first: int
    count: int
    scale: Fp8BlockScale | None = None


@dataclass(frozen=True)
class ValueHeadTiling:
    """Columns are value heads of `head_dim`, grouped by key head in the source, tiled over key heads in the output."""

    key_heads: int
    values_per_key: int
    head_dim: int


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of a GGUF file: `shape` in GGUF order, made of rows of `row_length` weights."""

    name: str
    shape: tuple[int, ...]
    runs: tuple[RowRange, ...]
    row_length: int
    arithmetic: Arithmetic = "copy"
    columns: ValueHeadTiling | None = None

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Number of rows of `row_length`."""
        return self.elements // self.row_length

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: those of one expert in a stack of experts, else all."""
        return self.shape[1] if len(self.shape) == 3 else self.rows


class CheckpointIndex:
    """The tensors of a checkpoint by the part of their name that all releases share.

    Releases differ in prefixes (`model.language_model.layers.0…`, `model.layers.0…`, `model.mtp.…`, `mtp.…`).
    """

    def __init__(self, checkpoint: Checkpoint, fp8_block: tuple[int, int] | None) -> None:
        self._tensors = {_short(name): tensor for name, tensor in checkpoint.tensors.items()}
        self._fp8_block = fp8_block
        self._unused = set(self._tensors)
        twice = len(self._tensors) < len(checkpoint.tensors)
        self._problems = ["two tensors differ only in the prefix of their names"] if twice else []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def has_prefix(self, prefix: str) -> bool:
        """Whether some tensor's name begins with `prefix`."""
        return any(name.startswith(prefix) for name in self._tensors)

    def row_range(self, name: str, shape: tuple[int, ...], row_length: int = 0) -> RowRange:
        """All rows of the tensor `name`, whose shape (row-major) must be `shape`; rows of its last axis by default.

        A tensor that is missing or has another shape is noted for `finish`.
        """
        count = math.prod(shape) // (row_length or shape[-1])
        tensor = self._tensors.get(name)
        self._unused.discard(name)
        if tensor is None:
            self._problems.append(f"{name} is missing")
            return RowRange(SourceTensor(name, "F32", shape, path=_NOWHERE, offset=0, n_bytes=0), 0, count)
        if tensor.shape != shape:
            self._problems.append(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}")
        return RowRange(tensor, 0, count, self._scale(tensor, name))

    def skip_prefixes(self, prefixes: Iterable[str]) -> None:
        """Tensors that the output leaves out on purpose."""
        for prefix in prefixes:
            self._unused = {name for name in self._unused if not name.startswith(prefix)}

    def validate(self) -> None:
        """Raise BadCheckpoint if a tensor was missing or of a wrong shape, or if one was never asked for."""
        problems = self._problems or [f"{name} is not a tensor of Qwen3.5" for name in sorted(self._unused)]
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            raise BadCheckpoint(
                "; ".join(problems[:3]) + more,
                "config.json and the weights must be from the same release: download both again",
            )

    def _scale(self, tensor: SourceTensor, name: str) -> Fp8BlockScale | None:
        if tensor.dtype != "F8_E4M3":
            if tensor.dtype not in _FLOATS:
                self._problems.append(f"{name} has the type {tensor.dtype}")
            return None
        scale_name = f"{name}_scale_inv"
        self._unused.discard(scale_name)
        scale = self._tensors.get(scale_name)
        if scale is None or self._fp8_block is None:
            self._problems.append(f"{scale_name} is missing")
            return None
        if len(tensor.shape) != 2:
            self._problems.append(f"{name} is FP8 but not a matrix")
            return None
        rows, columns = self._fp8_block
        blocks = (-(-tensor.shape[0] // rows), -(-tensor.shape[1] // columns))
        if scale.shape != blocks or scale.dtype not in _FLOATS:
            self._problems.append(f"{scale_name} is {scale.dtype} {list(scale.shape)}, not BF16 or F32 {list(blocks)}")
        return Fp8BlockScale(scale, rows, columns)


def _short(name: str) -> str:
    return name.replace("language_model.", "").removeprefix("model.")


def single_range_tensor(
    name: str, shape: tuple[int, ...], run: RowRange, arithmetic: Arithmetic = "copy"
) -> OutputTensor:
    """The tensor `name` made of one run of rows as they are; `shape` in GGUF order."""
    return OutputTensor(name, shape, (run,), shape[0], arithmetic)


def split_run(run: RowRange, first: int, count: int) -> RowRange:
    """`count` rows of `run` from its row `first` on."""
    return RowRange(run.source, run.first + first, count, run.scale)
