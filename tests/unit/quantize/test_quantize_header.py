"""The GGUF header reader: it reads files written by gguf and safely refuses anything else."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantize.errors import BadGGUF, QuantizeError
from quantize.gguf_header import GGUFHeader, read_header, read_leading_metadata

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(min_size=1),
    st.lists(st.text(), min_size=1, max_size=5),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
)
keys = st.dictionaries(st.text(min_size=1, max_size=20).filter(lambda key: "general" not in key), scalars, max_size=8)
shapes = st.dictionaries(
    st.text(min_size=1, max_size=20), st.lists(st.integers(1, 8), min_size=1, max_size=4), max_size=6
)


def gguf_bytes(values: dict[str, object], tensors: dict[str, list[int]]) -> bytes:
    """The bytes of a GGUF file made by gguf's own writer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        write(gguf.GGUFWriter(path, "test"), values, tensors)
        return path.read_bytes()


def write(writer: gguf.GGUFWriter, values: dict[str, object], tensors: dict[str, list[int]]) -> None:
    add = {bool: writer.add_bool, int: writer.add_int32, float: writer.add_float32, str: writer.add_string}
    for key, value in values.items():
        add.get(type(value), writer.add_array)(key, value)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@given(keys, shapes)
def test_header_written_by_gguf_is_read_back_equal(values: dict[str, object], tensors: dict[str, list[int]]) -> None:
    header = read_bytes(gguf_bytes(values, tensors))
    wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    assert header.metadata == {"general.architecture": "test", **wanted}
    found = {info.name: (list(info.shape[::-1]), info.n_bytes) for info in header.tensors}
    assert found == {name: (shape, 4 * int(np.prod(shape))) for name, shape in tensors.items()}


SAMPLE = gguf_bytes(
    {"text": "x" * 40, "number": 7, "texts": ["a", "bc"], "numbers": [1, 2, 3]}, {"one": [4, 8], "two": [3, 3, 3]}
)
VALUES = st.sampled_from([0, 1, 8, 9, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
mutations = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)),
    st.tuples(st.just("word"), st.integers(0, len(SAMPLE) - 8), VALUES),
    st.tuples(st.just("cut"), st.integers(0, len(SAMPLE) - 1), st.just(0)),
)


@pytest.mark.slow
@settings(max_examples=2000)
@given(st.lists(mutations, min_size=1, max_size=4))
@example([("word", 8, 2**63 - 1)])
@example([("word", 16, 2**64 - 1)])
def test_damaged_header_is_read_within_bounds_or_refused(changes: list[tuple[str, int, int]]) -> None:
    data = bytearray(SAMPLE)
    for kind, place, value in changes:
        if kind == "cut":
            del data[place:]
        elif kind == "word":
            data[place : place + 8] = struct.pack("<Q", value)
        elif place < len(data):
            data[place] = value
    try:
        header = read_bytes(bytes(data))
    except BadGGUF:
        return
    assert all(header.data_offset + info.offset + info.n_bytes <= len(data) for info in header.tensors)


@given(st.binary(max_size=300))
def test_random_bytes_after_magic_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadGGUF):
        read_bytes(b"GGUF" + struct.pack("<I", 3) + data)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read_bytes(data: bytes) -> GGUFHeader:
    Path("sample.gguf").write_bytes(data)
    return read_header(Path("sample.gguf"))


def test_fifo_device_folder_or_missing_file_is_refused_at_once() -> None:
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/zero", ".", "none"):
        with pytest.raises(QuantizeError):
            read_header(Path(path))


def test_leading_metadata_ends_before_long_vocabulary() -> None:
    texts = [f"token {number}" for number in range(20_000)]
    data = gguf_bytes({"general.name": "long", "tokens": texts, "after": 7}, {"one": [4, 8]})
    whole = read_bytes(data).metadata
    assert (whole["tokens"], whole["after"]) == (tuple(texts), 7)
    assert read_leading_metadata(Path("sample.gguf"))["general.name"] == "long"
    assert "after" not in read_leading_metadata(Path("sample.gguf"))


@given(texts=st.lists(st.text(max_size=9), min_size=1, max_size=30), cut=st.integers(1, 400))
def test_string_array_cut_off_by_end_of_file_is_refused(texts: list[str], cut: int) -> None:
    data = gguf_bytes({"texts": texts}, {"one": [4, 8]})
    assert read_bytes(data).metadata["texts"] == tuple(texts)
    with pytest.raises(BadGGUF):
        read_bytes(data[:-cut])
