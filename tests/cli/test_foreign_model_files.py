"""GGUF files that other programs made are named for what they are, by `chat` and `plan` in the same words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.support.cli_runner import outcome

KIND = gguf.GGUFValueType
A = "qwen35moe"


def rewritten(
    source: Path,
    target: Path,
    keys: Mapping[str, tuple[Any, ...]] | None = None,
    keep: Callable[[str], bool] = lambda _: True,
    extra: Mapping[str, Any] | None = None,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """Write the GGUF file `source` with other `keys` (value, type, type of elements), and some of its tensors."""
    reader, changed = gguf.GGUFReader(source), dict(keys or {})
    writer = gguf.GGUFWriter(target, A, endianess=endian)
    for name, one in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changed:
            continue
        writer.add_key_value(name, one.contents(), one.types[0], one.types[-1] if len(one.types) > 1 else None)
    for name, (value, *kinds) in changed.items():
        writer.add_key_value(name, value, *kinds)
    for tensor in reader.tensors:
        if keep(tensor.name):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def refusal(path: Path) -> tuple[str, str, int]:
    """The line, hint and exit code of `chat` and `plan`, which must be equal."""
    found = outcome("chat", "-m", str(path), "hi"), outcome("plan", str(path))
    assert found[0] == found[1]
    return found[0]


OLLAMA = "{name} was made by Ollama for itself; llama.cpp cannot load it"
WRITTEN_BY_OLLAMA: dict[str, dict[str, Any]] = {
    "three sections": {"keys": {f"{A}.rope.dimension_sections": ([3, 3, 2], KIND.ARRAY, KIND.INT32)}},
    "mrope_sections": {"keys": {f"{A}.mrope_sections": ([3, 3, 2], KIND.ARRAY, KIND.INT32)}},
    "heads by layer": {"keys": {f"{A}.attention.head_count_kv": ([0, 0, 0, 2], KIND.ARRAY, KIND.UINT32)}},
    "vision in the file": {"extra": {"v.blk.0.attn_q.weight": np.zeros((32, 32), np.float32)}},
}


@pytest.mark.parametrize("kind", WRITTEN_BY_OLLAMA)
def test_blob_of_ollama_is_named(kind: str, toy_gguf: Path, tmp_path: Path) -> None:
    path = rewritten(toy_gguf, tmp_path / "sha256-83c54730a5fea8", **WRITTEN_BY_OLLAMA[kind])
    line, hint, code = refusal(path)
    assert (line, code) == (OLLAMA.format(name=path.name), 65)
    assert hint.startswith("`qwenctl pull qwen3.5-35b-a3b`")


def test_mtp_block_without_tensors_is_named(toy_gguf: Path, tmp_path: Path) -> None:
    path = rewritten(toy_gguf, tmp_path / "x.gguf", keep=lambda name: not name.startswith("blk.4."))
    line = "x.gguf: its header promises an MTP block (blk.4), but its tensors are not in the file"
    hint = "make it again from the checkpoint with `qwenctl quantize`, or get it from another publisher"
    assert refusal(path) == (line, hint, 65)


def test_big_endian_file_is_named(toy_gguf: Path, tmp_path: Path) -> None:
    path = rewritten(toy_gguf, tmp_path / "x.gguf", keep=lambda _: False, endian=gguf.GGUFEndian.BIG)
    line, hint, code = refusal(path)
    assert (line, code) == ("x.gguf is a big-endian GGUF file, for machines such as IBM Z", 65)
    assert hint.startswith("get the little-endian file")


@pytest.mark.parametrize(("number", "hint"), [(146, "use another"), (31, "it is Q4_0"), (38, "it is IQ4_NL")])
def test_type_of_a_fork_or_of_an_old_version_is_named(number: int, hint: str, toy_gguf: Path, tmp_path: Path) -> None:
    data, name = bytearray(toy_gguf.read_bytes()), b"blk.0.ffn_up_exps.weight"
    at = data.index(name) + len(name)
    at += 4 + 8 * int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = number.to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(data)
    found = refusal(tmp_path / "x.gguf")
    which = "type IQ4_KSS of ik_llama.cpp, a fork of llama.cpp; llama.cpp cannot load it"
    if number != 146:
        which = f"ggml type {number}, which this version does not support"
    assert (found[0], found[2]) == (f"x.gguf: tensor '{name.decode()}' has the {which}", 65)
    assert found[1].startswith(hint)


def test_first_version_of_gguf_is_named(toy_gguf: Path, tmp_path: Path) -> None:
    data = bytearray(toy_gguf.read_bytes())
    data[4] = 1
    (tmp_path / "x.gguf").write_bytes(data)
    line, hint, code = refusal(tmp_path / "x.gguf")
    assert (line, code) == ("x.gguf is GGUF version 1; versions 2 and 3 can be read", 65)
    assert hint.startswith("get a newer file")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "PyTorch weights"),
        (b"PK\x03\x04" + bytes(99), "a zip archive"),
        (b"\x20\0\0\0\0\0\0\0" + b'{"a": {"dtype": "F32"}}', "a safetensors file"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"tjgg\x03\0\0\0", "in llama.cpp's format of before 2023-08"),
    ],
)
def test_other_weights_are_named(start: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(start + bytes(100))
    line, hint, code = refusal(tmp_path / "x.bin")
    assert (line, code) == (f"x.bin is {kind}, not GGUF", 65)
    assert hint
