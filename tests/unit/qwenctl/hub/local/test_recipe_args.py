"""Conversion options are stored in a lock file as command-line arguments and restored from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.plan import QuantizeOptions
from quantize.recipe.recipes import RECIPES
from qwenctl import __version__
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.recipe_args import recipe_from_args, recipe_to_args

OPTIONS = st.builds(
    QuantizeOptions,
    type_name=st.sampled_from(sorted(RECIPES)),
    overrides=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    mtp=st.booleans(),
    vision=st.booleans(),
    vision_type=st.sampled_from(["", "F16", "f32", "Q8_0"]),
    split_bytes=st.integers(0, 1 << 50),
)


@given(OPTIONS)
def test_recipe_options_round_trip_through_args(options: QuantizeOptions) -> None:
    found = recipe_from_args(recipe_to_args(options))
    assert found == replace(options, vision_type=options.vision_type.upper(), tool_version=__version__)


@given(OPTIONS)
def test_recipe_args_round_trip_through_options(options: QuantizeOptions) -> None:
    words = recipe_to_args(options)
    assert recipe_to_args(recipe_from_args(words)) == words


def test_recipe_args_with_importance_matrix_are_refused_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "imatrix.gguf").write_bytes(b"x")
    words = recipe_to_args(QuantizeOptions("Q4_K_M", imatrix=tmp_path / "imatrix.gguf"))
    with pytest.raises(QwenctlError, match=r"importance matrix \(sha256 2d711642b726\.\.\)") as caught:
        recipe_from_args(words)
    assert caught.value.code == ExitCode.NO_INPUT


@pytest.mark.parametrize("text", ["", "Q4_K_M --new", "Q4_K_M --tensor-type", "Q4_K_M --split-max-size x", "Q4_K_M '"])
def test_recipe_args_of_other_version_are_refused(text: str) -> None:
    with pytest.raises(QwenctlError, match="which this version does not support"):
        recipe_from_args(text)
