"""`qwenctl quantize` refuses bad checkpoints with one line, a hint and an exit code, and writes no file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import checkpoints
from tests.support.cli_runner import outcome
from tests.support.paths import DATA
from tests.support.qwen35_layout import PUBLISHED, Layout, Model, config, specs

IMATRIX = str(DATA / "expected" / "imatrix.gguf")
FETCH = "the download is incomplete or damaged: download this file again"
RELEASE = "config.json and the weights must be from the same release: download both again"
ARCHITECTURES = (
    "supported: Qwen3_5MoeForConditionalGeneration, Qwen3_5MoeForCausalLM, "
    "Qwen3_5ForConditionalGeneration, Qwen3_5ForCausalLM"
)
SMALL = Model(experts=0, width=64, hidden=64, vision=None)
INDEX = "model.safetensors.index.json"
FIRST = "model.safetensors-00001-of-00003.safetensors"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small checkpoint of three shards."""
    return checkpoints.make(tmp_path / "model", SMALL, shards=3)


def refusal(source: Path, *arguments: str) -> tuple[str, str, int]:
    """The error line, hint and exit code of `qwenctl quantize`, which must leave no file."""
    output = source.parent / "out.gguf"
    result = outcome("quantize", str(source), "-o", str(output), *arguments)
    assert not list(source.parent.glob("out.gguf*"))
    return result


# ------------------------------------------------------------------ the folder


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    hint = "give the folder with config.json and the safetensors files"
    assert outcome("quantize", f"{tmp_path}/none") == (f"no such folder: {tmp_path}/none", hint, 66)


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    (tmp_path / "x.txt").touch()
    line, _, code = outcome("quantize", f"{tmp_path}/x.gguf")
    assert (line, code) == (
        f"{tmp_path}/x.gguf is a GGUF file, which is quantized already, not a checkpoint folder",
        66,
    )
    line, _, code = outcome("quantize", f"{tmp_path}/x.txt")
    assert (line, code) == (f"{tmp_path}/x.txt is a file, not a checkpoint folder", 66)


def test_folder_without_weights_or_config_is_refused(source: Path) -> None:
    for name in (INDEX, *(f"model.safetensors-{n:05d}-of-00003.safetensors" for n in (2, 3))):
        (source / name).rename(source.parent / name)
    (source / FIRST).unlink()
    assert refusal(source) == (f"{source} has no safetensors file", "is the download complete?", 66)
    for name in ("tokenizer.json", "config.json"):
        (source / name).unlink()
    line = f"{source} has no config.json"
    assert refusal(source) == (line, "a checkpoint folder has it next to the weights", 66)


@pytest.mark.parametrize(
    ("change", "line", "hint"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "not a Qwen3.5 checkpoint: config.json says LlamaForCausalLM", ""),
        ({"architectures": None, "model_type": "gpt2"}, "not a Qwen3.5 checkpoint: config.json says gpt2", ""),
        ({"architectures": None, "model_type": None}, "not a Qwen3.5 checkpoint: config.json says nothing", ""),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "config.json says that the weights are quantized (gptq), but they are not",
            "if they were merged to 16 bits, remove quantization_config from config.json",
        ),
        ({"text_config": {}}, "config.json lacks 'num_hidden_layers'", "download config.json again"),
        (
            {"text_config": 7},
            "config.json has an invalid value: 'int' object is not a mapping",
            "download config.json again",
        ),
    ],
)
def test_unsupported_config_is_refused(change: dict[str, Any], line: str, hint: str, source: Path) -> None:
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | change))
    assert refusal(source) == (line, hint or ARCHITECTURES, 65)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"architectures": "x" * 3}'])
def test_config_that_is_not_a_json_object_is_refused(text: str, source: Path) -> None:
    (source / "config.json").write_text(text)
    line, hint, code = refusal(source)
    assert line.startswith("config.json ")
    assert (hint, code) == (FETCH, 65)


@pytest.mark.parametrize(
    ("key", "size"),
    [
        *(("num_hidden_layers", size) for size in (0, -1, 10**12, "many", None, [1], 1e400)),
        ("hidden_size", 0), ("num_key_value_heads", 3), ("vocab_size", -1), ("linear_value_head_dim", 32),
    ],
)  # fmt: skip
def test_invalid_size_in_config_is_refused(key: str, size: object, source: Path) -> None:
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**settings, "text_config": {**settings["text_config"], key: size}}))
    line, hint, code = refusal(source)
    assert line.startswith("config.json has an invalid value: ")
    assert (hint, code) == ("download config.json again", 65)


def test_damaged_or_missing_tokenizer_is_refused(source: Path) -> None:
    (source / "tokenizer.json").write_text('{"model": {}}')
    assert refusal(source)[::2] == ("tokenizer.json has no usable vocabulary ('vocab')", 65)
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").unlink()
    assert refusal(source)[::2] == (f"{source} has no tokenizer.json", 66)


# ------------------------------------------------------------------ the shards


def test_missing_shard_is_refused(source: Path) -> None:
    (source / FIRST).unlink()
    assert refusal(source) == (f"{source} lacks {FIRST}, named in {INDEX}", "download the missing shards", 66)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../b", "\\\\host\\share", "C:x", "a\0b", ""]
)
def test_index_with_a_path_outside_the_folder_is_refused(name: str, source: Path) -> None:
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["model.language_model.norm.weight"] = name
    (source / INDEX).write_text(json.dumps(index))
    line, hint, code = refusal(source)
    assert line == f"{INDEX} names {name!r}, which is outside the folder"
    assert (hint, code) == ("get it from its publisher", 65)


def truncate(data: bytes) -> bytes:
    return data[:-100]


def html_page(_: bytes) -> bytes:
    return b"<!DOCTYPE html>\n<html>"


def lfs_pointer(_: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def damage_header(data: bytes) -> bytes:
    return data[:8] + b"}" + data[9:]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (truncate, "{name} has {less:,} bytes, its header says {size:,}"),
        (html_page, "{name} is not a safetensors file (it is an HTML page)"),
        (lfs_pointer, "{name} is not a safetensors file (it is a Git LFS pointer)"),
        (damage_header, "{name} has a damaged header (Expecting value: line 1 column 1 (char 0))"),
        (lambda data: b"", "{name} is not a safetensors file (0 bytes)"),
    ],
    ids=["truncated", "html-page", "lfs-pointer", "damaged-header", "empty"],
)
def test_damaged_shard_is_refused(damage: Callable[[bytes], bytes], line: str, source: Path) -> None:
    data = (source / FIRST).read_bytes()
    (source / FIRST).write_bytes(damage(data))
    assert refusal(source) == (line.format(name=FIRST, size=len(data), less=len(data) - 100), FETCH, 65)


@pytest.mark.parametrize("change", ["overlap", "gap", "type", "shape", "negative"])
def test_inconsistent_shard_header_is_refused(change: str, source: Path) -> None:
    data = (source / FIRST).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = next(iter(header.values()))
    begin, end = entry["data_offsets"]
    entry |= {
        "overlap": {"data_offsets": [begin + 8, end + 8]},
        "gap": {"data_offsets": [begin, end], "shape": [*entry["shape"][:-1], entry["shape"][-1] + 1]},
        "type": {"dtype": "F6"},
        "shape": {"shape": ["x"]},
        "negative": {"data_offsets": [-8, end - begin - 8]},
    }[change]
    text = json.dumps(header).encode()
    (source / FIRST).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    line, hint, code = refusal(source)
    assert line.startswith(FIRST)
    assert (hint, code) == (FETCH, 65)


# ------------------------------------------------------------------ the tensors


def save_changed(folder: Path, change: Callable[[checkpoints.Arrays], None], model: Model = SMALL) -> Path:
    arrays = checkpoints.random_arrays(specs(model, Layout()), seed=0)
    change(arrays)
    return checkpoints.save(folder / "changed", config(model, Layout()), arrays)


NORM, QUERY = "model.language_model.norm.weight", "model.language_model.layers.3.self_attn.q_proj.weight"
CHANGES: list[tuple[Callable[[checkpoints.Arrays], object], str]] = [
    (lambda arrays: arrays.pop(NORM), "norm.weight is missing"),
    (
        lambda arrays: arrays.update({QUERY: arrays[QUERY][:7]}),
        "layers.3.self_attn.q_proj.weight has the shape [7, 64], not [512, 64]",
    ),
    (
        lambda arrays: arrays.update({"model.language_model.rotary.weight": arrays[NORM]}),
        "rotary.weight is not a tensor of Qwen3.5",
    ),
    (
        lambda arrays: arrays.update({"model.norm.weight": arrays[NORM]}),
        "two tensors differ only in the prefix of their names",
    ),
]


@pytest.mark.parametrize(("change", "line"), CHANGES, ids=["missing", "shape", "unknown", "duplicate"])
def test_tensors_that_contradict_the_config_are_refused(
    change: Callable[[checkpoints.Arrays], None], line: str, tmp_path: Path
) -> None:
    assert refusal(save_changed(tmp_path, change)) == (line, RELEASE, 65)


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    def remove(arrays: checkpoints.Arrays) -> None:
        for name in [name for name in arrays if ".mlp." in name]:
            del arrays[name]

    line, _, code = refusal(save_changed(tmp_path, remove))
    missing = "; ".join(f"layers.0.mlp.{part}_proj.weight is missing" for part in ("gate", "up", "down"))
    assert (line, code) == (f"{missing} (and 12 more)", 65)


@pytest.mark.parametrize(
    ("value", "problem", "hint"),
    [
        (np.nan, "not finite", "it is damaged: download it again"),
        (1e30, "too large for Q8_0", "--type BF16 can represent all values of the checkpoint"),
    ],
)
def test_weights_out_of_range_are_refused(value: float, problem: str, hint: str, tmp_path: Path) -> None:
    def spoil(arrays: checkpoints.Arrays) -> None:
        arrays["lm_head.weight"][5, 7] = value

    source = save_changed(tmp_path, spoil)
    error = outcome("quantize", str(source), "-o", str(tmp_path / "out.gguf"), "--type", "Q8_0", "--quiet")
    assert error == (f"output.weight contains values that are {problem}", hint, 65)
    assert not (tmp_path / "out.gguf").exists()


def test_output_larger_than_the_disk_is_refused(tmp_path: Path) -> None:
    source = checkpoints.make_sparse(tmp_path / "397B", PUBLISHED["397B"])
    line, hint, code = refusal(source, "--type", "F32")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 1e9
    assert line.startswith(f"needs 1,614 GB, {tmp_path.resolve()} has ")
    assert float(line.split(" has ")[1].split(" GB")[0].replace(",", "")) == pytest.approx(free, rel=0.2)
    assert (hint, code) == ("-o on another disk, or a smaller --type", 74)
