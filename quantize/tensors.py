"""The values that describe an output tensor before any weight is read.

An `OutputTensor` lists the row ranges of the source tensors it consists of, in order, and the transform applied to
them. Every transform of the Qwen3.5 family has this form, so any tensor can be computed a few rows at a time: splitting
packed experts, stacking separate experts, tiling value heads, selecting one of the two frames of a patch embedding.
`CheckpointIndex` finds source tensors by name, checks their shapes, and collects problems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quantize.checkpoint import Checkpoint, SourceTensor, have_equal_weights, list_names
from quantize.errors import BadCheckpoint

# plus_one: w + 1, for norms that are stored minus one. negative_exp: -exp(w), for A_log.
Transform = Literal["copy", "plus_one", "negative_exp"]
_FLOAT_DTYPES = ("BF16", "F16", "F32")
_SCALE_DTYPES = (*_FLOAT_DTYPES, "F8_E8M0")
_WRONG_RELEASE = "config.json and the weights must be from the same release: download both again"
_OTHER_DTYPE = "start from the BF16 or the FP8 repository of the same model"
_NO_FP8_CONFIG = "download config.json of the FP8 repository again: it gives the size of the blocks that share a scale"
# Buffers that some trainers store: computed from config.json, not learned.
_ROTARY_BUFFER = re.compile(r"(^|\.)rotary_(pos_)?emb\.((original_)?inv_freq|cos_cached|sin_cached)$")
# What wrappers of torch and peft put into names when a state is saved without taking them off.
_WRAPPERS = re.compile(
    r"(^|(?<=\.))(module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.|base_model\.model\.)+"
)
# Copies that some releases store of a tensor that is kept: name to the name of that tensor, first that exists.
_COPIES = {
    "mtp.embed_tokens.weight": ("embed_tokens.weight",),
    "mtp.lm_head.weight": ("lm_head.weight", "embed_tokens.weight"),
    "mtp.shared_head.head.weight": ("lm_head.weight", "embed_tokens.weight"),
}
# The path of a placeholder for a missing tensor; it is never opened, because `validate` raises first.
_NO_FILE = Path()


@dataclass(frozen=True, slots=True)
class Fp8BlockScale:
    """Scales of an FP8 tensor: one of `factors` for each block of `block_rows` x `block_columns` weights.

    Blocks do not cross the boundaries of the tensor's matrices, which have `matrix_rows` rows each.
    """

    factors: SourceTensor
    block_rows: int
    block_columns: int
    matrix_rows: int

    def block_row(self, row: int) -> int:
        """The row of `factors`, with those of all matrices in one sequence, for the row `row` of the tensor."""
        matrix, within = divmod(row, self.matrix_rows)
        return matrix * -(-self.matrix_rows // self.block_rows) + within // self.block_rows


@dataclass(frozen=True, slots=True)
class RowRange:
    """`count` consecutive rows of `source` from row `first` on; `scale` is set if the source is FP8."""

    source: SourceTensor
    first: int
    count: int
    scale: Fp8BlockScale | None = None


@dataclass(frozen=True)
class ValueHeadTiling:
    """The columns are value heads of `head_dim`: grouped by key head in the source, tiled over key heads in GGUF."""

    key_heads: int
    values_per_key: int
    head_dim: int


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of a GGUF file: `shape` in GGUF order, made of source rows of `row_length` weights."""

    name: str
    shape: tuple[int, ...]
    ranges: tuple[RowRange, ...]
    row_length: int
    transform: Transform = "copy"  # applied to each weight
    column_tiling: ValueHeadTiling | None = None  # order of the columns, if it differs from the source

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """The number of rows of `row_length` weights."""
        return self.elements // self.row_length

    @property
    def matrix_rows(self) -> int:
        """Rows per matrix: those of one expert in a stack of experts, or else all rows."""
        return self.shape[1] if len(self.shape) == 3 else self.rows


class CheckpointIndex:
    """The tensors of a checkpoint, by the part of the name that all releases share.

    Releases differ in prefixes (`model.language_model.layers.0…`, `model.layers.0…`, `model.mtp.…`, `mtp.…`).
    Problems are collected while tensors are looked up; `validate` raises them.
    """

    def __init__(
        self, checkpoint: Checkpoint, fp8_block: tuple[int, int] | None, *, headers_only: bool = False
    ) -> None:
        self.notes: list[str] = []  # what is left out, one line each
        self.headers_only = headers_only  # whether the files have no weights yet
        self._hint = _WRONG_RELEASE
        self._tensors = {_strip_prefixes(name): tensor for name, tensor in checkpoint.tensors.items()}
        self._fp8_block = fp8_block
        self._unused = set(self._tensors)
        has_duplicates = len(self._tensors) < len(checkpoint.tensors)
        self._problems = ["two tensors differ only in the prefix of their names"] if has_duplicates else []

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def has_prefix(self, prefix: str) -> bool:
        """Whether any tensor name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self._tensors)

    def row_range(self, name: str, shape: tuple[int, ...], row_length: int = 0) -> RowRange:
        """Look up all rows of the tensor `name`, which must have the row-major `shape`.

        A row is the last axis unless `row_length` is given. A missing tensor or a wrong shape is a problem that
        `validate` raises.
        """
        count = math.prod(shape) // (row_length or shape[-1])
        tensor = self._tensors.get(name)
        self._unused.discard(name)
        if tensor is None:
            self._problems.append(f"{name} is missing")
            # A placeholder, so that the other tensors are checked as well before `validate` raises.
            return RowRange(SourceTensor(name, "F32", shape, path=_NO_FILE, offset=0, n_bytes=0), 0, count)
        if tensor.shape != shape:
            self._problems.append(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}")
        return RowRange(tensor, 0, count, self._find_scale(tensor, name))

    def skip_prefixes(self, prefixes: Iterable[str]) -> list[str]:
        """Mark tensors that the output leaves out on purpose as used; returns their names."""
        skipped = [name for name in self._unused if name.startswith(tuple(prefixes))]
        self._unused.difference_update(skipped)
        return sorted(skipped)

    def leave_out_copy(self, name: str, of: str) -> bool:
        """Leave out the tensor `name` if it has exactly the weights of the tensor `of`; False if that is not certain.

        Raises OSError.
        """
        tensor, original = self._tensors.get(name), self._tensors.get(of)
        if tensor is None or original is None or self.headers_only or not have_equal_weights(tensor, original):
            return False
        self._unused.discard(name)
        self.notes.append(f"left out: {name}, equal to {of}")
        return True

    def validate(self) -> None:
        """Leave out the tensors that carry nothing, and note them.

        Raises BadCheckpoint if a tensor was missing or had a wrong shape, or if a tensor was never used.
        """
        buffers = sorted(name for name in self._unused if _ROTARY_BUFFER.search(name))
        if buffers:
            self._unused.difference_update(buffers)
            self.notes.append(f"left out: {list_names(buffers)}, which config.json determines")
        for name in sorted(self._unused & _COPIES.keys()):
            self.leave_out_copy(name, next((of for of in _COPIES[name] if of in self._tensors), ""))
        problems = self._problems or [f"{name} is not a tensor of Qwen3.5" for name in sorted(self._unused)]
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            raise BadCheckpoint("; ".join(problems[:3]) + more, self._hint)

    def _add_problem(self, problem: str, hint: str) -> None:
        """Collect a problem whose hint is another than that of missing tensors."""
        if not self._problems:
            self._hint = hint
        self._problems.append(problem)

    def _find_scale(self, tensor: SourceTensor, name: str) -> Fp8BlockScale | None:
        """Look up the scales of an FP8 tensor; None for other dtypes, and for problems, which are collected."""
        if tensor.dtype != "F8_E4M3":
            if tensor.dtype not in _FLOAT_DTYPES:
                problem = f"{name} has the type {tensor.dtype}; BF16, F16, F32 and block-scaled FP8 (E4M3) can be read"
                self._add_problem(problem, _OTHER_DTYPE)
            return None
        scale_name = f"{name}_scale_inv"
        self._unused.discard(scale_name)
        scale = self._tensors.get(scale_name)
        if scale is None:
            self._problems.append(f"{scale_name} is missing")
            return None
        if self._fp8_block is None:
            self._add_problem(f"{name} is FP8, but config.json has no quantization_config", _NO_FP8_CONFIG)
            return None
        if len(tensor.shape) not in (2, 3):
            self._problems.append(f"{name} is FP8 but no matrix")
            return None
        rows, columns = self._fp8_block
        # Rounded up: the last block of a row or column may be partial.
        blocks = (*tensor.shape[:-2], -(-tensor.shape[-2] // rows), -(-tensor.shape[-1] // columns))
        if scale.shape != blocks or scale.dtype not in _SCALE_DTYPES:
            self._problems.append(f"{scale_name} is {scale.dtype} {list(scale.shape)}, not BF16 or F32 {list(blocks)}")
        return Fp8BlockScale(scale, rows, columns, tensor.shape[-2])


def _strip_prefixes(name: str) -> str:
    """The part of a tensor name that all releases share, such as "layers.0.mlp.gate.weight"."""
    return _WRAPPERS.sub("", name).replace("language_model.", "").removeprefix("model.")


def single_range_tensor(
    name: str, shape: tuple[int, ...], row_range: RowRange, transform: Transform = "copy"
) -> OutputTensor:
    """The tensor `name` from a single row range; `shape` in GGUF order."""
    return OutputTensor(name, shape, (row_range,), shape[0], transform)


def split_range(row_range: RowRange, first: int, count: int) -> RowRange:
    """The part of `row_range` with `count` rows from its row `first` on."""
    return RowRange(row_range.source, row_range.first + first, count, row_range.scale)
