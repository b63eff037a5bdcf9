"""A checkpoint in the shape of the 35B with random weights and as many layers as fit.

`python -m tests.gpu.model FOLDER [LAYERS]` makes it; without LAYERS it has as many layers as the disk and RAM of this
machine hold, at most 40. The experts, nine tenths of the weights, repeat one block of random numbers, because a
generator would take an hour; routers are fully random, so that tokens choose among all experts as they do in a trained
model.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import psutil

from tests.support.checkpoints import n_bytes, random_arrays, write_safetensors, write_tokenizer
from tests.support.paths import TOY
from tests.support.qwen35_layout import PUBLISHED, Layout, Model, Spec, config, specs

_FULL_EVERY = 4  # every fourth layer has full attention, so the number of layers is a multiple of four
_BLOCK = 1 << 24
_QUANTIZED = 0.32  # of the size in BF16, as Q4_K_M with its output in Q6_K
_TOKENS = 248_077


def with_layers(layers: int, tokens: int = _TOKENS) -> Model:
    """The 35B with this number of layers, without MTP block and vision encoder."""
    vocabulary = PUBLISHED["35B"].vocabulary if tokens == _TOKENS else tokens
    return replace(PUBLISHED["35B"], layers=layers, mtp=False, vision=None, vocabulary=vocabulary)


def fitting_layers(free_disk: int, free_ram: int) -> int:
    """The largest number of layers whose checkpoint and GGUF fit on the disk and whose GGUF fits in RAM (in bytes)."""
    most = PUBLISHED["35B"].layers
    for layers in range(most, 0, -_FULL_EVERY):
        size = sum(n_bytes(*spec) for spec in specs(with_layers(layers), Layout()).values())
        if size * (1 + _QUANTIZED) < 0.9 * free_disk and size * _QUANTIZED < 0.8 * free_ram:
            return layers
    sys.exit("this machine has not the room for four layers of the 35B")


def make(folder: Path, model: Model, tokens: int = _TOKENS) -> None:
    """Write the checkpoint with one shard per layer, so that only one layer is in memory at a time."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(model, Layout())))
    write_tokenizer(folder, tokens)
    for name in ("chat_template.jinja", "generation_config.json"):
        shutil.copy(TOY / name, folder)
    weight_map, total = {}, 0
    shards = list(_shards(specs(model, Layout())))
    for number, wanted in enumerate(shards):
        file_name = f"model.safetensors-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file_name, wanted, _arrays(wanted, number))
        weight_map |= dict.fromkeys(wanted, file_name)
        total += sum(n_bytes(*spec) for spec in wanted.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shards(wanted: Mapping[str, Spec]) -> Iterator[dict[str, Spec]]:
    layers: dict[str, dict[str, Spec]] = {}
    for name, spec in wanted.items():
        key = name.split(".layers.")[1].split(".")[0] if ".layers." in name else ""
        layers.setdefault(key, {})[name] = spec
    yield from layers.values()


def _arrays(wanted: Mapping[str, Spec], seed: int) -> dict[str, npt.NDArray[Any]]:
    experts = {name for name in wanted if name.endswith((".gate_up_proj", "experts.down_proj"))}
    arrays = random_arrays({name: spec for name, spec in wanted.items() if name not in experts}, seed)
    block = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32)
    for name in experts:
        shape = wanted[name][1]
        values = (block / np.float32(math.sqrt(shape[-1]))).astype(ml_dtypes.bfloat16)
        arrays[name] = np.resize(values, shape)
    return arrays


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    room = fitting_layers(shutil.disk_usage(target.parent).free, psutil.virtual_memory().available)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else room
    print(f"{count} of 40 layers")
    make(target, with_layers(count))
