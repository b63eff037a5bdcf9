"""The layout of the output: which file holds which tensor, and at which offset.

Tensors with their types come in, a frozen `FilePlan` for each file goes out: its header in bytes and the place of every
tensor, all computed before a weight is read. Several files are named and marked as llama.cpp's splits are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.ggml.types import GGMLType
from quantize.qwen35.metadata import ALIGNMENT, MetadataBytes, header_bytes
from quantize.recipe.imatrix import ImatrixEntry
from quantize.tensors import OutputTensor

_SPLIT_KEYS_BYTES = 256  # room for the three keys of a split file, for the counts and for padding


@dataclass(frozen=True)
class QuantizedTensorSpec:
    """A tensor of the output with its type; `shape` in GGUF order, as it is written in the header."""

    tensor: OutputTensor
    shape: tuple[int, ...]
    kind: GGMLType
    importance: ImatrixEntry | None

    @property
    def n_bytes(self) -> int:
        """Bytes of its data, without padding."""
        return self.kind.row_bytes(self.tensor.row_length) * self.tensor.rows


@dataclass(frozen=True)
class TensorPlan:
    """A tensor as it will lie in its file, `n_bytes` at `offset` from the start of the file."""

    tensor: OutputTensor
    kind: GGMLType
    offset: int
    n_bytes: int
    importance: ImatrixEntry | None

    @property
    def paths(self) -> frozenset[Path]:
        """The files that it is made of."""
        runs = self.tensor.runs
        factors = {run.scale.factors.path for run in runs if run.scale}
        importance = {self.importance.sums.path} if self.importance else set[Path]()
        return frozenset({run.source.path for run in runs} | factors | importance)


@dataclass(frozen=True)
class FilePlan:
    """One output file: `header` up to the data section, then the tensors; `n_bytes` in all."""

    path: Path
    header: bytes
    tensors: tuple[TensorPlan, ...]
    n_bytes: int


def layout_files(
    path: Path, keys: MetadataBytes, tensors: Sequence[QuantizedTensorSpec], split_bytes: int
) -> tuple[FilePlan, ...]:
    """One file, or with `split_bytes` as many as are needed for none to be larger than that.

    A tensor that is larger by itself gets a file of its own.
    """
    groups = list(_groups(keys, tensors, split_bytes)) if split_bytes else [list(tensors)]
    return tuple(
        _file(_split_path(path, number, len(groups)), keys, group, (number, len(groups), len(tensors)))
        for number, group in enumerate(groups)
    )


def _groups(
    keys: MetadataBytes, tensors: Sequence[QuantizedTensorSpec], split_bytes: int
) -> Iterator[list[QuantizedTensorSpec]]:
    group, filled = list[QuantizedTensorSpec](), len(keys.data) + _SPLIT_KEYS_BYTES
    for typed in tensors:
        more = _padded(typed.n_bytes) + _info_bytes(typed)
        if group and filled + more > split_bytes:
            yield group
            group, filled = [], _SPLIT_KEYS_BYTES
        group.append(typed)
        filled += more
    yield group


def _info_bytes(typed: QuantizedTensorSpec) -> int:
    """Bytes of a tensor's entry in the header: length and text of its name, dimensions, type, offset."""
    return 8 + len(typed.tensor.name) + 4 + 8 * len(typed.shape) + 4 + 8


def _split_path(path: Path, number: int, files: int) -> Path:
    if files == 1:
        return path
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.name.removesuffix(".gguf"))
    return path.with_name(f"{stem}-{number + 1:05d}-of-{files:05d}.gguf")


def _file(
    path: Path, keys: MetadataBytes, group: Sequence[QuantizedTensorSpec], split: tuple[int, int, int]
) -> FilePlan:
    header = header_bytes(keys, [(typed.tensor, typed.shape, typed.kind, typed.n_bytes) for typed in group], split)
    tensors, at = [], len(header)
    for typed in group:
        tensors.append(TensorPlan(typed.tensor, typed.kind, at, typed.n_bytes, typed.importance))
        at += _padded(typed.n_bytes)
    return FilePlan(path, header, tuple(tensors), at)


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
