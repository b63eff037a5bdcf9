"""Lay out the output: which file holds which tensor, and at which offset.

Tensors with their types come in, a frozen `FilePlan` for each file goes out: the header as bytes and the offset of
every tensor, all computed before a weight is read. Split files are named and marked the way llama.cpp does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.ggml.types import GGMLType
from quantize.qwen35.metadata import ALIGNMENT, MetadataBytes, build_header
from quantize.recipe.imatrix import ImatrixEntry
from quantize.tensors import OutputTensor

_SPLIT_KEYS_BYTES = 256  # reserved for the three split keys, the counts and padding


@dataclass(frozen=True)
class QuantizedTensorSpec:
    """An output tensor with its ggml type; `shape` in GGUF order, as written to the header."""

    tensor: OutputTensor
    shape: tuple[int, ...]
    ggml_type: GGMLType
    importance: ImatrixEntry | None

    @property
    def n_bytes(self) -> int:
        """Size of the data in bytes, without padding."""
        return self.ggml_type.row_bytes(self.tensor.row_length) * self.tensor.rows


@dataclass(frozen=True)
class TensorPlan:
    """A tensor placed in its file: `n_bytes` at `offset` from the start of the file."""

    tensor: OutputTensor
    ggml_type: GGMLType
    offset: int
    n_bytes: int
    importance: ImatrixEntry | None

    @property
    def source_paths(self) -> frozenset[Path]:
        """The files it is computed from: shards and, if used, the importance matrix."""
        ranges = self.tensor.ranges
        factors = {row_range.scale.factors.path for row_range in ranges if row_range.scale}
        importance = {self.importance.sums.path} if self.importance else set[Path]()
        return frozenset({row_range.source.path for row_range in ranges} | factors | importance)


@dataclass(frozen=True)
class FilePlan:
    """One output file: `header` (padded to the data section), then the tensors; `n_bytes` in total."""

    path: Path
    header: bytes
    tensors: tuple[TensorPlan, ...]
    n_bytes: int


def layout_files(
    path: Path, keys: MetadataBytes, tensors: Sequence[QuantizedTensorSpec], split_bytes: int
) -> tuple[FilePlan, ...]:
    """Plan one file at `path`, or, if `split_bytes` is not 0, as many files of at most that size as needed.

    A tensor that is larger than `split_bytes` gets a file of its own.
    """
    groups = list(_split_into_groups(keys, tensors, split_bytes)) if split_bytes else [list(tensors)]
    return tuple(
        _plan_file(_split_path(path, number, len(groups)), keys, group, (number, len(groups), len(tensors)))
        for number, group in enumerate(groups)
    )


def _split_into_groups(
    keys: MetadataBytes, tensors: Sequence[QuantizedTensorSpec], split_bytes: int
) -> Iterator[list[QuantizedTensorSpec]]:
    """Divide the tensors into files of at most `split_bytes`."""
    # Greedy, in order: a file is closed when the next tensor would exceed the limit. Only the first file contains the
    # metadata (llama.cpp's convention), so it starts larger than the others.
    group, n_bytes = list[QuantizedTensorSpec](), len(keys.data) + _SPLIT_KEYS_BYTES
    for spec in tensors:
        added = _pad(spec.n_bytes) + _tensor_info_bytes(spec)
        if group and n_bytes + added > split_bytes:
            yield group
            group, n_bytes = [], _SPLIT_KEYS_BYTES
        group.append(spec)
        n_bytes += added
    yield group


def _tensor_info_bytes(spec: QuantizedTensorSpec) -> int:
    """Size of a tensor info in the header: name length and name, number of dimensions, dimensions, type, offset."""
    return 8 + len(spec.tensor.name) + 4 + 8 * len(spec.shape) + 4 + 8


def _split_path(path: Path, number: int, files: int) -> Path:
    """The path of split `number` (from 0), by llama.cpp's naming convention."""
    if files == 1:
        return path
    # The name given may itself be that of a split; do not append a second suffix.
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.name.removesuffix(".gguf"))
    return path.with_name(f"{stem}-{number + 1:05d}-of-{files:05d}.gguf")


def _plan_file(
    path: Path, keys: MetadataBytes, group: Sequence[QuantizedTensorSpec], split: tuple[int, int, int]
) -> FilePlan:
    """Build the header of one file and assign an aligned offset to each of its tensors."""
    header = build_header(keys, [(spec.tensor, spec.shape, spec.ggml_type, spec.n_bytes) for spec in group], split)
    tensors, offset = [], len(header)
    for spec in group:
        tensors.append(TensorPlan(spec.tensor, spec.ggml_type, offset, spec.n_bytes, spec.importance))
        offset += _pad(spec.n_bytes)
    return FilePlan(path, header, tuple(tensors), offset)


def _pad(n_bytes: int) -> int:
    """Round up to the alignment."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT
