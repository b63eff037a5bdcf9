"""Checkpoints for tests, on disk: random ones in any layout, sparse ones of any size, and variants of the toy.

The same seed gives the same bytes. A checkpoint is a config and its arrays by name (`Arrays`); functions transform
them, and `save` writes config.json, safetensors (with an index if there are several) and tokenizer as published.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from tests.support.paths import TOY
from tests.support.qwen35_layout import FP8_BLOCK, Layout, Model, Spec, config, specs

Arrays = dict[str, npt.NDArray[Any]]
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_OTHERS = ("merges.txt", "vocab.json", "preprocessor_config.json")
_DTYPES: dict[str, type[Any]] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "BOOL": np.bool_,
    "I32": np.int32,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def make(folder: Path, model: Model, layout: Layout | None = None, *, seed: int = 0, shards: int = 1) -> Path:
    """Write a checkpoint of random weights with the toy's tokenizer."""
    layout = layout or Layout()
    return save(folder, config(model, layout), random_arrays(specs(model, layout), seed), shards=shards)


def make_sparse(folder: Path, model: Model, layout: Layout | None = None, *, shards: int = 1, tokens: int = 0) -> Path:
    """Write a sparse checkpoint of zeros with the toy's tokenizer, or one of `tokens` tokens."""
    layout = layout or Layout()
    _write(folder, config(model, layout), specs(model, layout), {}, shards)
    if tokens:
        write_tokenizer(folder, tokens)
    return folder


def toy() -> tuple[dict[str, Any], Arrays]:
    """The toy checkpoint: its config and its arrays."""
    return json.loads((TOY / "config.json").read_bytes()), dict(load_file(TOY / "model.safetensors"))


def save(folder: Path, settings: Mapping[str, Any], arrays: Arrays, *, shards: int = 1) -> Path:
    """Write a checkpoint folder, with the toy's tokenizer."""
    _write(
        folder, settings, {name: (_NAMES[array.dtype], array.shape) for name, array in arrays.items()}, arrays, shards
    )
    return folder


def random_arrays(wanted: Mapping[str, Spec], seed: int) -> Arrays:
    """Random weights of realistic magnitude, so that the model's results are finite."""
    random = np.random.default_rng(seed)
    return {name: _random(random, name, *spec) for name, spec in wanted.items()}


def _random(random: np.random.Generator, name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if dtype == "F8_E4M3":
        codes = random.integers(0, 254, shape, np.uint8)
        return (
            (codes + (codes >= 127)).astype(np.uint8).view(ml_dtypes.float8_e4m3fn)
        )  # neither 127 nor 255, which are NaNs
    if name.endswith("_scale_inv"):
        return random.uniform(1e-4, 1e-3, shape).astype(_DTYPES[dtype])
    if name.endswith(".A_log"):
        return np.log(random.uniform(1, 16, shape)).astype(_DTYPES[dtype])
    deviation = 0.1 if len(shape) == 1 else 1 / math.sqrt(shape[-1])
    values = random.standard_normal(shape, np.float32) * np.float32(deviation)
    return (values + (name.endswith("linear_attn.norm.weight"))).astype(_DTYPES[dtype])


def single_experts(arrays: Arrays, under: str) -> Arrays:
    """The same arrays with unpacked experts, one tensor each, in the blocks whose names start with `under`."""
    changed: Arrays = {}
    for name, array in arrays.items():
        if not name.startswith(under) or not name.endswith((".gate_up_proj", "experts.down_proj")):
            changed[name] = array
            continue
        experts, part = name.rsplit(".", 1)
        for number, matrix in enumerate(array):
            if part == "down_proj":
                changed[f"{experts}.{number}.down_proj.weight"] = matrix
            else:
                half = len(matrix) // 2
                changed[f"{experts}.{number}.gate_proj.weight"] = matrix[:half]
                changed[f"{experts}.{number}.up_proj.weight"] = matrix[half:]
    return changed


def dequantized(arrays: Arrays) -> Arrays:
    """The same arrays with FP8 tensors as float32: each weight times the scale of its block."""
    changed: Arrays = {}
    for name, array in arrays.items():
        if array.dtype == ml_dtypes.float8_e4m3fn:
            factors = arrays[f"{name}_scale_inv"].astype(np.float32)
            rows, columns = array.shape
            factors = factors.repeat(FP8_BLOCK, axis=0)[:rows].repeat(FP8_BLOCK, axis=1)[:, :columns]
            changed[name] = array.astype(np.float32) * factors
        elif not name.endswith("_scale_inv"):
            changed[name] = array
    return changed


def as_dtype(arrays: Arrays, dtype: str) -> Arrays:
    """The same arrays, all converted to one dtype."""
    return {name: array.astype(_DTYPES[dtype]) for name, array in arrays.items()}


def _write(folder: Path, settings: Mapping[str, Any], wanted: Mapping[str, Spec], arrays: Arrays, shards: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
    for name in (*_TOKENIZER, *_OTHERS):
        shutil.copy(TOY / name, folder)
    names = sorted(wanted)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", wanted, arrays)
        return
    weight_map, share = {}, -(-len(names) // shards)
    for shard in range(shards):
        file_name = f"model.safetensors-{shard + 1:05d}-of-{shards:05d}.safetensors"
        held = names[shard * share : (shard + 1) * share]
        write_safetensors(folder / file_name, {name: wanted[name] for name in held}, arrays)
        weight_map |= dict.fromkeys(held, file_name)
    index = {"metadata": {"total_size": sum(n_bytes(*spec) for spec in wanted.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def n_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize


def write_safetensors(path: Path, wanted: Mapping[str, Spec], arrays: Arrays) -> None:
    """Write a safetensors file; tensors missing from `arrays` become holes (zeros)."""
    header, at = {}, 0
    for name, (dtype, shape) in wanted.items():
        end = at + n_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in wanted:
            if name in arrays:
                file.seek(8 + len(head) + header[name]["data_offsets"][0])
                file.write(np.ascontiguousarray(arrays[name]).tobytes())
        file.truncate(8 + len(head) + at)


def write_tokenizer(folder: Path, n_tokens: int) -> None:
    """Write tokenizer files of `n_tokens` tokens: the toy's, with made-up ones before its added tokens."""
    tokenizer = json.loads((TOY / "tokenizer.json").read_bytes())
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    words, more = list(model["vocab"]), n_tokens - len(model["vocab"]) - len(added)
    pairs = [f"{first}{second}" for first in words[:64] for second in words[:64]]
    made_up = [*pairs, *(f"{pair}{third}" for pair in pairs for third in words[:64])]  # merged of a pair and a letter
    made_up = [word for word in dict.fromkeys(made_up) if word not in model["vocab"]][:more]
    model["vocab"] |= {word: len(words) + number for number, word in enumerate(made_up)}
    model["merges"] += [[word[:-1], word[-1]] for word in made_up]
    for number, token in enumerate(added):
        token["id"] = len(words) + more + number
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    config = json.loads((TOY / "tokenizer_config.json").read_bytes())
    ids = {token["content"]: str(token["id"]) for token in added}
    config["added_tokens_decoder"] = {ids[token["content"]]: token for token in config["added_tokens_decoder"].values()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
