"""An importance matrix, as llama-imatrix writes it.

A GGUF file comes in; for each tensor of the model that it knows, the place of its sums and the counts go out. The mean
squared activation of each input column is computed where it is needed (`slabs`), one expert at a time: the sums of a
large model take a gigabyte. Format: tools/imatrix of llama.cpp (`NAME.in_sum2`, `NAME.counts`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantize.checkpoint import SourceTensor
from quantize.errors import BadGGUF
from quantize.gguf_header import GGUFHeader, TensorInfo, read_header

_REQUIRED = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass(frozen=True)
class ImatrixEntry:
    """The columns of one tensor: `sums` [matrices, columns] of squares lie in the file; `counts` has one a matrix.

    A count of 0 means that an expert was never used: nothing is known of its columns.
    """

    sums: SourceTensor
    counts: tuple[float, ...]


@dataclass(frozen=True)
class Imatrix:
    """`importance` by the name of the model's tensor; `sha256` is the file's."""

    path: Path
    sha256: str
    datasets: tuple[str, ...]
    chunks: int
    importance: Mapping[str, ImatrixEntry]


def read_imatrix(path: Path) -> Imatrix:
    """The importance matrix in the GGUF file `path`. Raises MissingInput or BadGGUF."""
    header = read_header(path)
    lacking = [key for key in _REQUIRED if key not in header.metadata]
    if header.metadata.get("general.type") != "imatrix" or lacking:
        raise BadGGUF(f"{path.name} is not an importance matrix in GGUF format", "make one with llama-imatrix")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    importance = {
        name.removesuffix(".in_sum2"): _importance(path, header, tensors, name.removesuffix(".in_sum2"))
        for name in tensors
        if name.endswith(".in_sum2")
    }
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    datasets, chunks = header.metadata["imatrix.datasets"], header.metadata["imatrix.chunk_count"]
    return Imatrix(
        path,
        sha256,
        tuple(map(str, datasets)) if isinstance(datasets, tuple) else (str(datasets),),
        chunks if isinstance(chunks, int) else 0,
        importance,
    )


def _importance(path: Path, header: GGUFHeader, tensors: Mapping[str, TensorInfo], name: str) -> ImatrixEntry:
    sums, counts = tensors[f"{name}.in_sum2"], tensors.get(f"{name}.counts")
    columns = sums.shape[0]
    if counts is None or _elements(counts) * columns != _elements(sums):
        raise BadGGUF(f"{path.name} has no usable counts for {name}")
    sum_values, count_values = _floats(path, header, sums), _floats(path, header, counts)
    if not (np.isfinite(sum_values).all() and np.isfinite(count_values).all()):
        raise BadGGUF(f"{path.name} has values for {name} that are not finite")
    place = header.data_offset + sums.offset
    source = SourceTensor(sums.name, "F32", (count_values.size, columns), path, place, sums.n_bytes)
    return ImatrixEntry(source, tuple(count_values.tolist()))


def _elements(tensor: TensorInfo) -> int:
    return tensor.n_bytes // 4


def _floats(path: Path, header: GGUFHeader, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    if tensor.type_name != "F32":
        raise BadGGUF(f"{tensor.name} of the importance matrix is {tensor.type_name}, not F32")
    return np.fromfile(path, "<f4", _elements(tensor), offset=header.data_offset + tensor.offset)
