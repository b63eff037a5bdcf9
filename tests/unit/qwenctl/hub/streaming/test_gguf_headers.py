"""The begin of a GGUF file in a sparse file of its length: enough as soon as the whole header is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.gguf_header import read_header
from qwenctl.errors import QwenctlError
from qwenctl.hub.streaming.gguf_headers import _header_error, _write_sparse


def test_header_is_readable_once_its_last_byte_has_arrived(toy_gguf: Path, tmp_path: Path) -> None:
    size, header = toy_gguf.stat().st_size, read_header(toy_gguf)
    half = header.data_offset // 2
    data, path = toy_gguf.read_bytes()[: header.data_offset], tmp_path / "x.gguf"
    _write_sparse(path, 0, data[:half], size)
    assert isinstance(_header_error(path), QwenctlError)
    _write_sparse(path, half, data[half:], size)
    assert _header_error(path) is None
    assert read_header(path).tensors == header.tensors
    assert path.stat().st_size == size


def test_sparse_file_takes_no_room_for_what_is_not_written(tmp_path: Path) -> None:
    _write_sparse(tmp_path / "x.gguf", 0, b"GGUF", 1 << 40)
    assert (tmp_path / "x.gguf").stat().st_size == 1 << 40
    assert (tmp_path / "x.gguf").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("begin", [b"", b"GGUF", b"<html>"])
def test_file_that_is_no_gguf_has_an_error(begin: bytes, tmp_path: Path) -> None:
    _write_sparse(tmp_path / "x.gguf", 0, begin, 1000)
    assert isinstance(_header_error(tmp_path / "x.gguf"), QwenctlError)
