"""Properties of the quantize library, checked on generated input."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.checkpoint import SourceTensor
from quantize.errors import BadOption
from quantize.formatting import format_bytes
from quantize.ggml.types import GGML_TYPES
from quantize.recipe.recipes import RECIPES, Override, RecipeContext, assign_types, find_recipe, parse_override
from quantize.row_chunks import fp8_values, iter_chunks
from quantize.tensors import OutputTensor, RowRange

# ------------------------------------------------------------------ chunks


@st.composite
def stacks(draw: st.DrawFn) -> OutputTensor:
    """A stack of matrices whose rows come in runs of random length from several sources."""
    matrices, rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 30)), draw(st.sampled_from([1, 32, 256]))
    cuts = sorted(draw(st.sets(st.integers(1, matrices * rows - 1)))) if matrices * rows > 1 else []
    ends = [0, *cuts, matrices * rows]
    sources = [SourceTensor(f"s{i}", "BF16", (99, length), Path("x"), 0, 0) for i in range(3)]
    runs = tuple(
        RowRange(sources[i % 3], draw(st.integers(0, 50)), end - start) for i, (start, end) in enumerate(pairwise(ends))
    )
    shape = (length, rows, matrices) if matrices > 1 else (length, rows)
    return OutputTensor("x", shape, runs, length)


def source_rows(runs: tuple[RowRange, ...]) -> list[tuple[str, int]]:
    return [(run.source.name, run.first + row) for run in runs for row in range(run.count)]


@given(stacks(), st.integers(1, 40))
def test_chunks_cover_every_row_once_in_order(tensor: OutputTensor, most: int) -> None:
    chunks = list(iter_chunks(tensor, most))
    assert [row for chunk in chunks for row in source_rows(chunk.ranges)] == source_rows(tensor.ranges)
    assert [chunk.first for chunk in chunks] == list(np.cumsum([0, *(chunk.rows for chunk in chunks)]))[:-1]
    for chunk in chunks:
        assert 1 <= chunk.rows <= most
        assert chunk.rows == sum(run.count for run in chunk.ranges)
        assert chunk.matrix == chunk.first // tensor.matrix_rows == (chunk.first + chunk.rows - 1) // tensor.matrix_rows


def test_fp8_values_match_ml_dtypes() -> None:
    wanted = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(fp8_values(), wanted, equal_nan=True)


# ------------------------------------------------------------------ recipes

TYPES = ["q4_k", "Q6_K", "bf16", "iq4_nl", "q8_0"]
PATTERNS = ["ffn_down", "^blk\\.0\\.", "attn", "ffn", "weight$", "blk\\.(1|3)\\.ffn"]
SHAPES = {
    f"blk.{layer}.{name}.weight": (256, 256)
    for layer in range(4)
    for name in ("ffn_down", "ffn_up", "attn_v", "attn_k")
} | {"token_embd.weight": (256, 100), "output.weight": (256, 100), "output_norm.weight": (256,)}
FACTS = RecipeContext(layers=4, experts=0, query_groups=4, has_imatrix=False)


@given(st.sampled_from(sorted(RECIPES)), st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from(TYPES))))
def test_last_matching_override_wins(recipe: str, pairs: list[tuple[str, str]]) -> None:
    overrides = [parse_override(f"{pattern}={kind}") for pattern, kind in pairs]
    types = chosen(recipe, overrides)
    for name in SHAPES:
        matching = [one.ggml_type.name for one in overrides if one.pattern.search(name)]
        if matching and name != "output_norm.weight":
            assert types[name] == matching[-1]
    assert types["output_norm.weight"] == "F32"


@given(st.sampled_from(sorted(RECIPES)), st.sampled_from(TYPES))
def test_override_of_one_tensor_leaves_other_types_unchanged(recipe: str, kind: str) -> None:
    changed, plain = chosen(recipe, [parse_override(f"ffn_up={kind}")]), chosen(recipe, [])
    assert {name: changed[name] for name in SHAPES if "ffn_up" not in name} == {
        name: plain[name] for name in SHAPES if "ffn_up" not in name
    }


def chosen(recipe: str, overrides: list[Override]) -> dict[str, str]:
    return {name: kind.name for name, kind in assign_types(find_recipe(recipe), SHAPES, FACTS, overrides).items()}


@given(st.text())
def test_random_override_text_is_parsed_or_refused(text: str) -> None:
    try:
        override = parse_override(text)
    except BadOption:
        return
    assert override.ggml_type in GGML_TYPES.values()


@given(st.sampled_from(sorted(RECIPES)), st.integers(1, 600))
def test_row_not_divisible_by_block_size_gets_type_that_fits(recipe: str, length: int) -> None:
    shapes = {"blk.0.ffn_up.weight": (length, 4), "token_embd.weight": (length, 4), "output.weight": (length, 4)}
    for kind in assign_types(find_recipe(recipe), shapes, FACTS, []).values():
        assert kind.row_bytes(length) > 0


# ------------------------------------------------------------------ units


@given(st.integers(0, 10**15))
def test_formatted_size_is_close_to_byte_count(n_bytes: int) -> None:
    number, unit = format_bytes(n_bytes).replace(",", "").split()
    scale = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[unit]
    assert float(number) * scale == pytest.approx(n_bytes, rel=0.006)
