"""No tensor of a checkpoint is left out without a note, and none unless that changes nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from quantize.errors import BadCheckpoint, QuantizeError
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan
from tests.support import checkpoints
from tests.support.checkpoints import Arrays
from tests.support.qwen35_layout import Layout, Model, Vision, config, specs

SMALL = Model(experts=0, width=64, hidden=64, vision=None)
TIED = replace(SMALL, tied=True)
EMBEDDINGS = "model.language_model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


def plan(folder: Path, **options: Any) -> ConversionPlan:
    return make_plan(folder, folder.parent / "out.gguf", QuantizeOptions("F32"), **options)


def make(folder: Path, model: Model = SMALL, more: Arrays | None = None, shards: int = 1, **keys: object) -> Path:
    arrays = checkpoints.random_arrays(specs(model, Layout()), seed=0)
    return checkpoints.save(folder, config(model, Layout()) | keys, arrays | (more or {}), shards=shards)


def embeddings() -> Any:
    return checkpoints.random_arrays(specs(SMALL, Layout()), seed=0)[EMBEDDINGS]


def output_names(planned: ConversionPlan) -> set[str]:
    return {tensor.tensor.name for file in planned.files for tensor in file.tensors}


def unmentioned(folder: Path, planned: ConversionPlan) -> set[str]:
    """Tensors of all shards in `folder` that are neither a source of an output tensor nor named in a note."""
    ranges = [part for file in planned.files for tensor in file.tensors for part in tensor.tensor.ranges]
    used = {part.source.name for part in ranges} | {part.scale.factors.name for part in ranges if part.scale}
    found: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            found |= set(file.keys()) if path.name not in " ".join(planned.notes) else set()
    notes = " ".join(planned.notes)
    return {name for name in found - used if name.replace("language_model.", "").removeprefix("model.") not in notes}


def norm(values: float = 0.0) -> Any:
    return np.full(64, values, np.float32)


EXTRAS: dict[str, Callable[[], Arrays]] = {
    "equal head": lambda: {"lm_head.weight": embeddings()},
    "other head": lambda: {"lm_head.weight": embeddings()[::-1]},
    "rotary": lambda: {"model.language_model.rotary_emb.inv_freq": np.zeros(8, np.float32)},
    "layer's rotary": lambda: {"model.language_model.layers.3.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)},
    "vision": lambda: {"model.visual.merger.norm.weight": norm()},
    "MTP's copy": lambda: {"mtp.embed_tokens.weight": embeddings()},
    "MTP's own embeddings": lambda: {"mtp.embed_tokens.weight": embeddings()[::-1]},
    "second MTP block": lambda: {"mtp.layers.1.input_layernorm.weight": norm()},
    "cached sines": lambda: {"model.language_model.layers.3.self_attn.rotary_emb.sin_cached": norm()},
    "unknown": lambda: {"model.language_model.layers.0.extra.weight": norm()},
    "one layer more": lambda: {"model.language_model.layers.4.input_layernorm.weight": norm()},
    "scale without FP8": lambda: {"model.language_model.layers.3.self_attn.q_proj.weight_scale_inv": norm()},
}
NEVER_LEFT_OUT = {"MTP's own embeddings", "second MTP block", "unknown", "one layer more", "scale without FP8"}


@settings(max_examples=40)
@given(st.sets(st.sampled_from(sorted(EXTRAS)), max_size=3), st.booleans(), st.sampled_from([1, 2]), st.booleans())
def test_what_a_plan_leaves_out_is_noted_or_the_checkpoint_refused(
    extras: set[str], tied: bool, shards: int, headers_only: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        more: Arrays = {}
        for name in sorted(extras):
            more |= EXTRAS[name]()
        source = make(Path(folder) / "model", TIED if tied else SMALL, more, shards)
        try:
            planned = plan(source, headers_only=headers_only)
        except BadCheckpoint:
            assert extras & (NEVER_LEFT_OUT | ({"MTP's copy"} if headers_only else set()))
            return
        assert not extras & NEVER_LEFT_OUT
        assert not unmentioned(source, planned)
        has_other_head = not tied or bool(extras & ({"other head"} | ({"equal head"} if headers_only else set())))
        assert ("output.weight" in output_names(planned)) == has_other_head


@pytest.mark.parametrize(
    ("top", "text", "head", "outcome"),
    [
        (True, True, "none", "tied"), (False, True, "none", "tied"), (True, False, "none", "tied"),
        (False, False, "none", "refused"), (None, None, "none", "refused"), (None, None, "other", "own head"),
        (True, True, "equal", "tied"), (True, True, "other", "own head"), (False, False, "equal", "own head"),
        (False, True, "other", "own head"), (True, False, "equal", "tied"),
    ],
)  # fmt: skip
def test_head_is_what_transformers_makes_of_config_and_weights(
    top: bool | None, text: bool | None, head: str, outcome: str, tmp_path: Path
) -> None:
    more = {"none": {}, "equal": {"lm_head.weight": embeddings()}, "other": {"lm_head.weight": embeddings()[::-1]}}[
        head
    ]
    source = make(tmp_path / "model", TIED, more)
    values = json.loads((source / "config.json").read_text())
    for part, value in ((values, top), (values["text_config"], text)):
        part.pop("tie_word_embeddings")
        part.update({} if value is None else {"tie_word_embeddings": value})
    (source / "config.json").write_text(json.dumps(values))
    if outcome == "refused":
        with pytest.raises(BadCheckpoint, match=r"lm_head\.weight is missing"):
            plan(source)
        return
    planned = plan(source)
    assert ("output.weight" in output_names(planned)) == (outcome == "own head")
    is_plain = (top == text or None in (top, text)) and (head, bool(top or text)) in {("none", True), ("equal", False)}
    assert bool(planned.notes) == (not is_plain and (top, text) != (None, None))


def write_shard(folder: Path, name: str, arrays: Arrays) -> None:
    names = {np.dtype(np.float32): "F32"}
    wanted = {key: (names.get(array.dtype, "BF16"), array.shape) for key, array in arrays.items()}
    checkpoints.write_safetensors(folder / name, wanted, arrays)


def add_to_index(folder: Path, names: dict[str, str]) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, "weight_map": index["weight_map"] | names}))


def test_tensor_in_two_shards_is_taken_once_if_both_are_equal(tmp_path: Path) -> None:
    source = make(tmp_path / "model", shards=2)
    write_shard(source, "model-more.safetensors", {EMBEDDINGS: embeddings(), "mtp.embed_tokens.weight": embeddings()})
    add_to_index(source, {"mtp.embed_tokens.weight": "model-more.safetensors"})
    notes = plan(source).notes
    assert any(note.startswith(f"{EMBEDDINGS} is in both ") and note.endswith("one is left out") for note in notes)
    with pytest.raises(BadCheckpoint, match="is in both"):
        plan(source, headers_only=True)
    other = {EMBEDDINGS: embeddings()[::-1], "mtp.embed_tokens.weight": embeddings()}
    write_shard(source, "model-more.safetensors", other)
    with pytest.raises(BadCheckpoint, match="with different weights"):
        plan(source)


def test_tensor_that_only_the_shard_has_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    source = make(tmp_path / "model", shards=2)
    index = json.loads((source / INDEX).read_text())
    del index["weight_map"]["model.language_model.norm.weight"]
    (source / INDEX).write_text(json.dumps(index))
    assert "output_norm.weight" in output_names(plan(source))


def test_safetensors_beside_the_model_are_left_out_and_named(tmp_path: Path) -> None:
    source = make(tmp_path / "model")
    write_shard(source, "adapter_model.safetensors", {"base_model.model.x.lora_A.weight": norm()})
    (source / "consolidated.safetensors").write_bytes(b"not read")
    assert plan(source).notes == (
        "left out: adapter_model.safetensors, consolidated.safetensors, no part of the model's weights",
    )


def test_parts_that_only_config_json_has_are_noted(tmp_path: Path) -> None:
    model = replace(SMALL, mtp=False, vision=Vision(depth=1))
    arrays = checkpoints.random_arrays(specs(model, Layout()), seed=0)
    text = {name: array for name, array in arrays.items() if "visual" not in name}
    source = checkpoints.save(tmp_path / "model", config(model, Layout()), text)
    assert plan(source).notes == tuple(
        f"config.json promises {part}, which the checkpoint does not have: made without"
        for part in ("an MTP block", "a vision encoder")
    )


def test_two_sets_of_weights_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "model", shards=2)
    write_shard(source, "model.safetensors", {"x": norm()})
    with pytest.raises(BadCheckpoint, match=f"and a {INDEX} that does not name it"):
        plan(source)


def test_shards_without_their_index_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "model", shards=2)
    (source / INDEX).unlink()
    with pytest.raises(QuantizeError, match=f"but no {INDEX}"):
        plan(source)
    next(source.glob("*00001-of-00002*")).unlink()
    with pytest.raises(QuantizeError, match=f"but no {INDEX}"):
        plan(source)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_names_that_a_wrapper_has_changed_are_read(wrapper: str, tmp_path: Path) -> None:
    plain = checkpoints.random_arrays(specs(SMALL, Layout()), seed=0)
    outside = {wrapper + name: array for name, array in plain.items()}
    inside = {name.replace("layers.0.", f"layers.0.{wrapper}"): array for name, array in plain.items()}
    expected = output_names(plan(make(tmp_path / "plain")))
    for name, arrays in (("outside", outside), ("inside", inside)):
        planned = plan(checkpoints.save(tmp_path / name, config(SMALL, Layout()), arrays))
        assert (output_names(planned), planned.notes) == (expected, ())


def test_tensor_with_and_without_a_wrapper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="two tensors differ only in the prefix of their names"):
        plan(make(tmp_path / "model", more={"module.model.language_model.norm.weight": norm()}))
