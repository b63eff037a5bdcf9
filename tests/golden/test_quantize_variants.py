"""Checkpoints in layouts other than the toy's are converted to the same tensors as by llama.cpp."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.support.gguf_files import tensors
from tests.support.variants import GOLDEN, VARIANTS, decays, digests, our_file, weights_digest

EXPECTED: dict[str, Any] = json.loads(GOLDEN.read_text())


def test_golden_data_covers_every_variant() -> None:
    assert {name: variant.types for name, variant in VARIANTS.items()} == {
        name: list(golden["files"]) for name, golden in EXPECTED.items()
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_every_file_matches_llama_cpp(name: str, tmp_path: Path) -> None:
    source, golden = VARIANTS[name].make(tmp_path / "model"), EXPECTED[name]
    assert weights_digest(source) == golden["weights"], "other random numbers: make the data anew"
    ours = {kind: our_file(kind, source, tmp_path) for kind in VARIANTS[name].types}
    found = {kind: tensors(path) for kind, path in ours.items()}
    if VARIANTS[name].layout.dtype == "F16":
        found = {kind: one | norms_in_f16(ours[kind]) for kind, one in found.items()}
    assert {kind: digests(one, ours[kind]) for kind, one in found.items()} == golden["files"]
    theirs = np.frombuffer(bytes.fromhex(golden["decays"]), np.float32)
    np.testing.assert_array_max_ulp(decays(ours["F32"]), theirs, maxulp=1)


def norms_in_f16(path: Path) -> dict[str, list[Any]]:
    """The norms of a file, rounded to F16.

    For an F16 source, llama.cpp computes the norms' 1 + weight in F16; the reference implementation and we use F32.
    """
    norms = {
        tensor.name: tensor.data
        for tensor in gguf.GGUFReader(path).tensors
        if tensor.name.endswith("norm.weight") and not tensor.name.endswith("ssm_norm.weight")
    }
    return {
        name: ["F32", [len(norm)], hashlib.sha256(norm.astype(np.float16).astype(np.float32).tobytes()).hexdigest()]
        for name, norm in norms.items()
    }
