"""The old format of llama-imatrix is read as llama-quantize reads it; other files are not taken for it."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.convert import convert
from quantize.errors import QuantizeError
from quantize.plan import QuantizeOptions, make_plan
from quantize.recipe.imatrix import read_imatrix
from quantize.recipe.imatrix_dat import read_old_imatrix
from tests.support.gguf_files import tensors
from tests.support.paths import DATA, TOY

IMATRIX = DATA / "expected" / "imatrix.gguf"
CALLS = 32  # a power of two, so that values times it divide to the same means


def old_format(source: Path, target: Path, *, end: bool = True) -> Path:
    """Write the importance matrix `source` in the old format."""
    arrays = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(source).tensors}
    names = sorted(name.removesuffix(".in_sum2") for name in arrays if name.endswith(".in_sum2"))
    parts = [struct.pack("<i", len(names))]
    for name in names:
        sums = arrays[f"{name}.in_sum2"].astype(np.float32)
        counts = arrays[f"{name}.counts"].astype(np.float32).reshape(-1, 1)
        rows = sums.reshape(len(counts), -1)
        means = np.where(counts > 0, rows / np.maximum(counts, np.float32(1)), np.float32(1)) * np.float32(CALLS)
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", CALLS, means.size), means.tobytes()]
    if end:
        parts.append(struct.pack("<ii", CALLS, 4) + b"text")
    target.write_bytes(b"".join(parts))
    return target


def test_old_format_gives_the_same_tensors_as_gguf(tmp_path: Path) -> None:
    found = []
    for name, path in (("new", IMATRIX), ("old", old_format(IMATRIX, tmp_path / "imatrix.dat"))):
        options = QuantizeOptions("Q4_0", imatrix=path, vision=False)
        convert(make_plan(TOY, tmp_path / f"{name}.gguf", options), 2)
        found.append(dict(tensors(tmp_path / f"{name}.gguf")))
    assert found[0] == found[1]


@pytest.mark.parametrize("end", [True, False])
def test_chunks_and_dataset_are_read_if_they_are_there(end: bool, tmp_path: Path) -> None:
    found = read_imatrix(old_format(IMATRIX, tmp_path / "imatrix.dat", end=end))
    assert (found.chunks, found.datasets) == ((CALLS, ("text",)) if end else (0, ()))


def test_truncated_or_infinite_file_is_refused(tmp_path: Path) -> None:
    path = old_format(IMATRIX, tmp_path / "imatrix.dat")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(QuantizeError, match="is not a GGUF file"):
        read_imatrix(path)
    start = data.index(b".weight") + len(b".weight") + 8
    path.write_bytes(data[:start] + struct.pack("<f", float("inf")) + data[start + 4 :])
    with pytest.raises(QuantizeError, match="that are not finite"):
        read_imatrix(path)


@given(st.binary(max_size=300))
def test_random_bytes_are_not_taken_for_it_or_fit_in_the_file(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        found = read_old_imatrix(Path(file.name))
    for entry in found.entries if found else ():
        assert entry.offset + 4 * entry.n_values <= len(data)
