"""For every published model and recipe, each tensor has the type that llama-quantize gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.mixes import GOLDEN, MIXED, MODELS, digest, key, our_types, planned


@pytest.mark.parametrize("model", MODELS)
def test_every_mix_matches_llama_quantize(model: str, tmp_path: Path) -> None:
    plan = planned(model, tmp_path)
    found = {
        key(recipe, imatrix=imatrix): digest(our_types(plan, recipe, imatrix=imatrix))
        for recipe in MIXED
        for imatrix in (False, True)
    }
    assert found == json.loads(GOLDEN.read_text())[model]
