"""Summarize a plan: sizes by tensor class and type, files, and the resources that the conversion needs.

A `ConversionPlan` comes in, a frozen `Summary` goes out; nothing is written and no weight is read. A dry run prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from quantize.layout import FilePlan, TensorPlan
from quantize.output.partial_output import DiskSpace, required_disk_space
from quantize.plan import ConversionPlan
from quantize.recipe.tensor_classes import CLASSES, tensor_class
from quantize.row_chunks import scratch_bytes

# Measured: the interpreter with its libraries, and the plan's memory per checkpoint tensor and per header byte (the
# vocabulary is a million Python objects before it is packed). The largest published model with one tensor per expert
# takes 340 MiB.
_BASE_BYTES, _BYTES_PER_TENSOR, _BYTES_PER_HEADER_BYTE = 80 << 20, 1 << 10, 16


@dataclass(frozen=True)
class TensorSummary:
    """One output tensor; `shape` in GGUF order."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    n_bytes: int


@dataclass(frozen=True)
class SummaryRow:
    """All tensors of one class and one type; `weights` counts their elements."""

    tensor_class: str
    type_name: str
    tensors: int
    weights: int
    n_bytes: int


@dataclass(frozen=True)
class FileSummary:
    """One output file; `bits_per_weight` does not count the header."""

    path: Path
    n_bytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class Summary:
    """A complete conversion. `rows` follow the order of `CLASSES`, the largest type of a class first.

    `memory_bytes` is an upper estimate of the process's memory with `threads` workers.
    """

    recipe: str
    rows: tuple[SummaryRow, ...]
    tensors: tuple[TensorSummary, ...]
    files: tuple[FileSummary, ...]
    n_bytes: int
    bits_per_weight: float
    disk_space: DiskSpace
    threads: int
    memory_bytes: int
    notes: tuple[str, ...] = ()  # what is left out of the files or decided against a part of the checkpoint


def summarize(plan: ConversionPlan, threads: int) -> Summary:
    """Summarize `plan` for `threads` workers. `bits_per_weight` covers the text model only."""
    tensors = [tensor_plan for file in plan.files for tensor_plan in file.tensors]
    return Summary(
        recipe=plan.recipe.name,
        rows=_group_rows(tensors, plan.config.layers),
        tensors=tuple(
            TensorSummary(
                tensor_plan.tensor.name, tensor_plan.tensor.shape, tensor_plan.ggml_type.name, tensor_plan.n_bytes
            )
            for tensor_plan in tensors
        ),
        files=summarize_files(plan),
        n_bytes=plan.n_bytes,
        bits_per_weight=_bits_per_weight(tensor_plan for file in plan.text_files for tensor_plan in file.tensors),
        disk_space=required_disk_space(plan),
        threads=threads,
        memory_bytes=_memory_bytes(plan, tensors, threads),
        notes=plan.notes,
    )


def _memory_bytes(plan: ConversionPlan, tensors: Iterable[TensorPlan], threads: int) -> int:
    """An upper estimate of the memory that a conversion needs, in bytes."""
    worker_bytes = max(scratch_bytes(plan_bytes.tensor, plan_bytes.ggml_type) for plan_bytes in tensors)
    header_bytes = sum(len(file.header) for file in plan.files)
    plan_bytes = len(plan.checkpoint.tensors) * _BYTES_PER_TENSOR + header_bytes * _BYTES_PER_HEADER_BYTE
    return _BASE_BYTES + plan_bytes + threads * worker_bytes


def summarize_files(plan: ConversionPlan) -> tuple[FileSummary, ...]:
    """Summarize each output file."""
    return tuple(_summarize_file(file) for file in plan.files)


def _summarize_file(file: FilePlan) -> FileSummary:
    return FileSummary(file.path, file.n_bytes, _bits_per_weight(file.tensors))


def _bits_per_weight(tensors: Iterable[TensorPlan]) -> float:
    """Average bits per weight of these tensors."""
    sizes = [(planned.n_bytes, planned.tensor.elements) for planned in tensors]
    return 8 * sum(n_bytes for n_bytes, _ in sizes) / sum(weights for _, weights in sizes)


def _group_rows(tensors: Iterable[TensorPlan], layers: int) -> tuple[SummaryRow, ...]:
    """Add up the tensors by class and type."""
    # groupby needs sorted input; the result is sorted again, by class as in `CLASSES` and by size.
    keyed = [
        ((tensor_class(tensor_plan.tensor.name, layers), tensor_plan.ggml_type.name), tensor_plan)
        for tensor_plan in tensors
    ]
    rows = []
    for (class_name, type_name), group in groupby(sorted(keyed, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
        plans = [tensor_plan for _, tensor_plan in group]
        weights, n_bytes = (
            sum(tensor_plan.tensor.elements for tensor_plan in plans),
            sum(tensor_plan.n_bytes for tensor_plan in plans),
        )
        rows.append(SummaryRow(class_name, type_name, len(plans), weights, n_bytes))
    return tuple(sorted(rows, key=lambda row: (CLASSES.index(row.tensor_class), -row.n_bytes)))
