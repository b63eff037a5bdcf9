"""Files that are not usable models are refused with a reason, before the engine starts."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.cli_runner import outcome

NO_GGUF = "`qwenctl quantize CHECKPOINT_FOLDER` makes one from a checkpoint"
DAMAGED = "the file is damaged or hostile: download it again, or make it with `qwenctl quantize`"


def gguf(path: Path, version: int = 3, **values: object) -> Path:
    """Write a GGUF file of metadata only. A double underscore in a name stands for a dot."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value_of(value: object) -> bytes:
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        if isinstance(value, list):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(item) for item in value)
        return struct.pack("<II", 4, value)

    pairs = b"".join(text(name.replace("__", ".")) + value_of(value) for name, value in values.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, len(values)) + pairs + bytes(64))
    return path


@pytest.mark.parametrize(
    ("content", "line", "hint"),
    [
        (b"", "x.gguf is empty, not GGUF", "download or create it again"),
        (
            bytes(4096),
            "x.gguf is filled with zeros, not GGUF",
            "it is incomplete: download or create it again",
        ),
        (b"<!DOCTYPE html><html>", "x.gguf is an HTML page, not GGUF", "download the file, not its page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x.gguf is a Git LFS pointer, not GGUF", "git lfs pull"),
        (b"some other thing", "x.gguf is not a GGUF file (it begins with b'some')", NO_GGUF),
    ],
)
def test_file_that_is_not_gguf_is_refused(tmp_path: Path, content: bytes, line: str, hint: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert outcome("chat", "-m", str(tmp_path / "x.gguf")) == (line, hint, 65)


def test_missing_file_lists_available_gguf_files(tmp_path: Path) -> None:
    gguf(tmp_path / "toy-Q8_0.gguf")
    missing = tmp_path / "toy-Q8.gguf"
    assert outcome("chat", "-m", str(missing)) == (f"no such file: {missing}", "available: toy-Q8_0.gguf", 66)


def test_folder_as_a_model_suggests_quantize(tmp_path: Path) -> None:
    line = f"{tmp_path} is a folder, not a GGUF file"
    assert outcome("chat", "-m", str(tmp_path)) == (line, f"qwenctl quantize {tmp_path}", 66)


def test_truncated_gguf_is_refused(tmp_path: Path, toy_gguf: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(toy_gguf.read_bytes()[:-1000])
    line, _, code = outcome("chat", "-m", str(cut))
    assert code == 65
    assert line.startswith("cut.gguf ends at ")


MOE = {"general__architecture": "qwen35moe", "qwen35moe__block_count": 4}


@pytest.mark.parametrize(
    ("values", "line", "hint"),
    [
        (
            {"general__architecture": "llama"},
            "x.gguf: architecture 'llama' is not Qwen3.5",
            "Qwen3.5 models are qwen35 and qwen35moe",
        ),
        (
            {"general__architecture": "clip"},
            "x.gguf: architecture 'clip' is not Qwen3.5",
            "the vision part (mmproj) of a model: use the text model next to it",
        ),
        (
            {"general__architecture": "qwen35", "qwen35__block_count": 0},
            "x.gguf: block_count is 0; it must be from 1 to 512",
            DAMAGED,
        ),
        (
            {**MOE, "qwen35moe__expert_count": 4, "qwen35moe__expert_used_count": 12},
            "x.gguf: expert_used_count 12 > expert_count 4",
            DAMAGED,
        ),
        (
            {**MOE, "qwen35moe__expert_count": 1025, "qwen35moe__expert_used_count": 2},
            "x.gguf: expert_count is 1,025; it must be from 1 to 1,024",
            DAMAGED,
        ),
        (
            {"general__architecture": "qwen35", "qwen35__block_count": "four"},
            "x.gguf: qwen35.block_count is 'four', not a whole number",
            DAMAGED,
        ),
        (
            {"general__architecture": "qwen35", "qwen35__block_count": 1, "tokenizer__ggml__tokens": ["a", "b", "a"]},
            "x.gguf: the vocabulary has 1 duplicate token(s)",
            DAMAGED,
        ),
    ],
)
def test_unsupported_or_damaged_header_is_refused(
    tmp_path: Path, values: dict[str, object], line: str, hint: str
) -> None:
    path = gguf(tmp_path / "x.gguf", **values)
    assert outcome("chat", "-m", str(path)) == (line, hint, 65)


def test_missing_split_is_named(tmp_path: Path) -> None:
    dense = {"general__architecture": "qwen35", "qwen35__block_count": 1, "split__count": 3}
    first = gguf(tmp_path / "x-00001-of-00003.gguf", **dense, split__no=0)
    second = gguf(tmp_path / "x-00002-of-00003.gguf", split__no=1, split__count=3)
    line = "split 3 of 3 is missing next to x-00001-of-00003.gguf"
    assert outcome("chat", "-m", str(first)) == (line, f"put x-00003-of-00003.gguf into {tmp_path}", 66)
    assert outcome("chat", "-m", str(second)) == (
        "x-00002-of-00003.gguf is split 2 of 3",
        f"give the first part: -m {first}",
        2,
    )


def test_escape_codes_in_a_file_name_are_removed(tmp_path: Path) -> None:
    line, _, _ = outcome("chat", "-m", str(tmp_path / "evil\x1b[2J\nname.gguf"))
    assert line == f"no such file: {tmp_path}/evil name.gguf"
