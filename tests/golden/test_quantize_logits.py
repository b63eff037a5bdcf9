"""libllama computes the reference implementation's logits from a converted file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import checkpoints
from tests.support.gguf_files import converted
from tests.support.libllama import logits, squared_error
from tests.support.paths import DATA

# Over all positions of the three prompts. Files made by llama.cpp have 4e-14, 5e-6 and 8e-4.
LIMITS = {"F32": 1e-6, "BF16": 1e-5, "Q4_K_M": 5e-3}


def error(model: Path, folder: Path) -> float:
    with np.load(DATA / "expected" / "logits.npz") as saved:
        prompts, wanted = [saved[f"tokens{i}"] for i in range(3)], [saved[f"logits{i}"] for i in range(3)]
    return squared_error(np.concatenate(logits(model, prompts, folder)), np.concatenate(wanted))


@pytest.mark.parametrize("type_name", LIMITS)
def test_logits_match_the_reference(type_name: str, toy: Path, tmp_path: Path) -> None:
    converted(toy, tmp_path / "toy.gguf", type_name, vision=False)
    assert error(tmp_path / "toy.gguf", tmp_path) < LIMITS[type_name]


def test_swapped_value_heads_change_the_logits(tmp_path: Path) -> None:
    settings, arrays = checkpoints.toy()
    name = "model.language_model.layers.0.linear_attn.in_proj_z.weight"
    heads = arrays[name].reshape(4, 64, 256)
    arrays[name] = heads[[0, 2, 1, 3]].reshape(256, 256)
    converted(checkpoints.save(tmp_path / "swapped", settings, arrays), tmp_path / "toy.gguf", "F32", vision=False)
    assert error(tmp_path / "toy.gguf", tmp_path) > 1e-3
