"""GGUF files that other programs made are named for what they are, by `chat` and `plan` in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.support.cli_runner import outcome, run
from tests.support.gguf_files import rewritten

KIND = gguf.GGUFValueType
A = "qwen35moe"
RECORD = b'{"id": "a", "prompt": "What is the capital of France?"}\n'
# What comes before a model, and after it.
COMMANDS = {
    ("chat", "-m"): ("--seed", "1", "What is the capital of France?"),
    ("batch", "--parallel", "1", "-m"): ("-",),
    ("plan",): (),
}


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


def test_model_without_the_tensors_of_its_mtp_block_answers_without_it(toy_gguf: Path, tmp_path: Path) -> None:
    path = rewritten(toy_gguf, tmp_path / "x.gguf", keep=lambda name: not name.startswith("blk.4."))
    note = "note: x.gguf: its header promises an MTP block (blk.4) that is not all in the file: loaded without it"
    answers = {}
    for command, more in COMMANDS.items():
        done = run(*command, str(path), *more, stdin=RECORD)
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stderr.decode().splitlines()
        assert [line[: len(note)] for line in lines if line.startswith("note: ")] == [note]
        answers[command[0]] = done.stdout
    assert answers["chat"] == run("chat", "-m", str(toy_gguf), *COMMANDS["chat", "-m"]).stdout
    assert answers["batch"].startswith(b'{"id": "a", ')
    refused = run("chat", "-m", str(path), "--draft", "mtp", "hi")
    assert (refused.returncode, b"the model has no draft head" in refused.stderr) == (2, True)


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
