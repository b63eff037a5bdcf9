"""A plan in figures: sizes by tensor class and type, files, and what the conversion needs.

A `ConversionPlan` comes in, a frozen `Summary` goes out; nothing is written and no weight is read. A dry run prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from quantize.layout import FilePlan, TensorPlan
from quantize.output import DiskSpace, required_disk_space
from quantize.plan import ConversionPlan
from quantize.recipe.tensor_classes import CLASSES, tensor_class
from quantize.row_chunks import scratch_bytes

# Measured: the interpreter with its libraries; a plan, by the tensors of its checkpoint and by the bytes of its headers
# (the vocabulary is a million Python objects first). The largest published model takes 340 MiB, experts one by one.
_BASE_BYTES, _BYTES_PER_TENSOR, _BYTES_PER_HEADER_BYTE = 80 << 20, 1 << 10, 16


@dataclass(frozen=True)
class TensorSummary:
    """One tensor; `shape` in GGUF order."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    n_bytes: int


@dataclass(frozen=True)
class SummaryRow:
    """Tensors of one class and one type, taken together."""

    tensor_class: str
    type_name: str
    tensors: int
    weights: int
    n_bytes: int


@dataclass(frozen=True)
class FileSummary:
    """One file of the output; `bits_per_weight` leaves the header out."""

    path: Path
    n_bytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class Summary:
    """A whole conversion. `parts` are in the order of `CLASSES`, the largest type of a class first."""

    recipe: str
    parts: tuple[SummaryRow, ...]
    tensors: tuple[TensorSummary, ...]
    files: tuple[FileSummary, ...]
    n_bytes: int
    bits_per_weight: float
    room: DiskSpace
    threads: int
    memory_bytes: int


def summarize(plan: ConversionPlan, threads: int) -> Summary:
    """The figures of `plan`, converted by `threads` workers. `bits_per_weight` is that of the text model."""
    tensors = [planned for file in plan.files for planned in file.tensors]
    return Summary(
        plan.recipe.name,
        _parts(tensors, plan.config.layers),
        tuple(TensorSummary(one.tensor.name, one.tensor.shape, one.kind.name, one.n_bytes) for one in tensors),
        summarize_files(plan),
        plan.n_bytes,
        _bits_per_weight(planned for file in plan.text_files for planned in file.tensors),
        required_disk_space(plan),
        threads,
        _memory_bytes(plan, tensors, threads),
    )


def _memory_bytes(plan: ConversionPlan, tensors: Iterable[TensorPlan], threads: int) -> int:
    """An upper estimate of the memory of a conversion."""
    worker = max(scratch_bytes(planned.tensor, planned.kind) for planned in tensors)
    headers = sum(len(file.header) for file in plan.files)
    planned = len(plan.checkpoint.tensors) * _BYTES_PER_TENSOR + headers * _BYTES_PER_HEADER_BYTE
    return _BASE_BYTES + planned + threads * worker


def summarize_files(plan: ConversionPlan) -> tuple[FileSummary, ...]:
    """The figures of each file."""
    return tuple(_file(file) for file in plan.files)


def _file(file: FilePlan) -> FileSummary:
    return FileSummary(file.path, file.n_bytes, _bits_per_weight(file.tensors))


def _bits_per_weight(tensors: Iterable[TensorPlan]) -> float:
    sizes = [(planned.n_bytes, planned.tensor.elements) for planned in tensors]
    return 8 * sum(n_bytes for n_bytes, _ in sizes) / sum(weights for _, weights in sizes)


def _parts(tensors: Iterable[TensorPlan], layers: int) -> tuple[SummaryRow, ...]:
    keyed = [((tensor_class(one.tensor.name, layers), one.kind.name), one) for one in tensors]
    parts = []
    for (class_name, type_name), group in groupby(sorted(keyed, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
        held = [planned for _, planned in group]
        weights, n_bytes = sum(one.tensor.elements for one in held), sum(one.n_bytes for one in held)
        parts.append(SummaryRow(class_name, type_name, len(held), weights, n_bytes))
    return tuple(sorted(parts, key=lambda part: (CLASSES.index(part.tensor_class), -part.n_bytes)))
