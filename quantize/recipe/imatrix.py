"""Read an importance matrix written by llama-imatrix.

A GGUF file or one in the old format (`imatrix_dat`) comes in; for each model tensor in it, the file offset of its sums
and its counts go out. `row_chunks` computes the mean squared activation of each input column from them, one expert at a
time, because the sums of a large model take a gigabyte. Format: tools/imatrix of llama.cpp (`NAME.in_sum2`,
`NAME.counts`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantize.checkpoint import SourceTensor
from quantize.errors import BadGGUF
from quantize.file_system import file_sha256
from quantize.gguf_header import GGUFHeader, TensorInfo, read_header
from quantize.recipe.imatrix_dat import OldImatrix, read_old_imatrix

_REQUIRED = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass(frozen=True)
class ImatrixEntry:
    """Activation statistics of one tensor: `sums` of squares [matrices, columns], still in the file, and `counts`.

    `counts` [matrices] are the activations summed up. A count of 0 means that an expert was never used, so there is no
    information about its columns.
    """

    sums: SourceTensor
    counts: tuple[float, ...]
    is_flat: bool = False  # from the old format, which does not say how many matrices there are: [1, values]

    def reshaped(self, shape: tuple[int, int]) -> ImatrixEntry:
        """This entry with `sums` of `shape` if it is flat and has as many values; itself otherwise."""
        if not self.is_flat or math.prod(shape) != math.prod(self.sums.shape):
            return self
        return ImatrixEntry(replace(self.sums, shape=shape), self.counts * shape[0])


@dataclass(frozen=True)
class Imatrix:
    """An importance matrix: `entries` by model tensor name; `sha256` is the hash of the file."""

    path: Path
    sha256: str
    datasets: tuple[str, ...]
    chunks: int
    entries: Mapping[str, ImatrixEntry]


def read_imatrix(path: Path) -> Imatrix:
    """Read the importance matrix in the file `path`, GGUF or the old format. Raises MissingInput or BadGGUF."""
    if path.is_file() and not _starts_as_gguf(path) and (old := read_old_imatrix(path)):
        return _from_old_format(path, old)
    header = read_header(path)
    missing = [key for key in _REQUIRED if key not in header.metadata]
    if header.metadata.get("general.type") != "imatrix" or missing:
        raise BadGGUF(f"{path.name} is not an importance matrix in GGUF format", "make one with llama-imatrix")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    entries = {
        name.removesuffix(".in_sum2"): _read_entry(path, header, tensors, name.removesuffix(".in_sum2"))
        for name in tensors
        if name.endswith(".in_sum2")
    }
    datasets, chunks = header.metadata["imatrix.datasets"], header.metadata["imatrix.chunk_count"]
    return Imatrix(
        path,
        file_sha256(path),
        tuple(map(str, datasets)) if isinstance(datasets, tuple) else (str(datasets),),
        chunks if isinstance(chunks, int) else 0,
        entries,
    )


def _starts_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _from_old_format(path: Path, old: OldImatrix) -> Imatrix:
    """The importance matrix `old` in the file `path`. Raises BadGGUF."""
    entries = {}
    for entry in old.entries:
        if not np.isfinite(np.fromfile(path, "<f4", entry.n_values, offset=entry.offset)).all():
            raise BadGGUF(f"{path.name} has values for {entry.name} that are not finite")
        sums = SourceTensor(entry.name, "F32", (1, entry.n_values), path, entry.offset, 4 * entry.n_values)
        # As llama-quantize does, values without a number of calls are taken as they are.
        entries[entry.name] = ImatrixEntry(sums, (float(max(1, entry.calls)),), is_flat=True)
    return Imatrix(path, file_sha256(path), (old.dataset,) if old.dataset else (), old.chunks, entries)


def _read_entry(path: Path, header: GGUFHeader, tensors: Mapping[str, TensorInfo], name: str) -> ImatrixEntry:
    """Read the counts of the tensor `name`, and locate its sums. Raises BadGGUF."""
    # `sums` has a row of columns per matrix (one, or one per expert), and `counts` has one number per matrix.
    sums, counts = tensors[f"{name}.in_sum2"], tensors.get(f"{name}.counts")
    columns = sums.shape[0]
    if counts is None or _n_elements(counts) * columns != _n_elements(sums):
        raise BadGGUF(f"{path.name} has no usable counts for {name}")
    sum_values, count_values = _read_floats(path, header, sums), _read_floats(path, header, counts)
    if not (np.isfinite(sum_values).all() and np.isfinite(count_values).all()):
        raise BadGGUF(f"{path.name} has values for {name} that are not finite")
    offset = header.data_offset + sums.offset
    # The sums stay in the file: `row_chunks` reads them like a tensor of a checkpoint.
    source = SourceTensor(sums.name, "F32", (count_values.size, columns), path, offset, sums.n_bytes)
    return ImatrixEntry(source, tuple(count_values.tolist()))


def _n_elements(tensor: TensorInfo) -> int:
    return tensor.n_bytes // 4


def _read_floats(path: Path, header: GGUFHeader, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    """Read a whole F32 tensor [elements]. Raises BadGGUF for other types."""
    if tensor.type_name != "F32":
        raise BadGGUF(f"{tensor.name} of the importance matrix is {tensor.type_name}, not F32")
    return np.fromfile(path, "<f4", _n_elements(tensor), offset=header.data_offset + tensor.offset)
