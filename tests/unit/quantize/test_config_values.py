"""A value of config.json is in the GGUF file, or of no effect, or refused: none is dropped or rounded silently."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.errors import BadCheckpoint
from quantize.qwen35.model_config import parse_config
from quantize.qwen35.rope import Rope, parse_rope
from tests.support.qwen35_layout import Layout, Model, Vision, config

ROPE = {"rope_theta": 10_000_000, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]}
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144}
PLAIN = Rope(10_000_000.0, 16, (3, 3, 2, 0))
CONTEXT = {"max_position_embeddings": 262_144}


def parsed_rope(**text: Any) -> Rope:
    return parse_rope({**CONTEXT, **text}, 64)


def changed(part: str = "", **values: Any) -> dict[str, Any]:
    """config.json of a small model with other values at the top, or in the `part`."""
    settings: dict[str, Any] = json.loads(json.dumps(config(Model(vision=Vision()), Layout())))
    (settings[part] if part else settings).update(values)
    return settings


@pytest.mark.parametrize("kind", ["default", "mrope", None, ""])
def test_rope_without_stretching_is_plain(kind: str | None) -> None:
    assert parsed_rope(rope_parameters={**ROPE, "rope_type": kind}) == PLAIN
    assert parsed_rope(rope_scaling={**ROPE, "type": kind}) == PLAIN


def test_linear_and_yarn_keep_their_factor() -> None:
    linear = parsed_rope(rope_parameters={**ROPE, "rope_type": "linear", "factor": 2})
    assert (linear.scaling, linear.factor, linear.original_context) == ("linear", 2.0, 0)
    yarn = parsed_rope(rope_parameters=YARN)
    assert (yarn.scaling, yarn.factor, yarn.original_context) == ("yarn", 4.0, 262_144)


def test_yarn_without_its_original_context_has_that_of_the_model_as_in_transformers() -> None:
    values = {key: value for key, value in YARN.items() if key != "original_max_position_embeddings"}
    assert parsed_rope(rope_parameters=values).original_context == CONTEXT["max_position_embeddings"]


@given(st.sampled_from(["dynamic", "llama3", "longrope", "su", "proportional", "ntk", "axial"]), st.booleans())
def test_other_stretching_is_refused(kind: str, old: bool) -> None:
    key, kind_key = ("rope_scaling", "type") if old else ("rope_parameters", "rope_type")
    with pytest.raises(BadCheckpoint, match=r"llama\.cpp computes Qwen3\.5 with default, linear or yarn only"):
        parsed_rope(**{key: {**ROPE, kind_key: kind, "factor": 4.0}})


def test_stretching_given_in_one_of_two_places_is_never_dropped() -> None:
    stretched = {"type": "yarn", "factor": 4.0}
    with pytest.raises(BadCheckpoint, match=r"rope_parameters and rope_scaling in config\.json contradict each other"):
        parsed_rope(rope_parameters={**ROPE, "rope_type": "default"}, rope_scaling=stretched)
    assert parsed_rope(rope_scaling=stretched | ROPE, rope_parameters=YARN) == parsed_rope(rope_parameters=YARN)


@pytest.mark.parametrize(
    ("key", "usual", "other"),
    [
        ("beta_fast", 32, 16), ("beta_slow", 1, 2), ("extrapolation_factor", 1.0, 0.5),
        ("attention_factor", 1.1386294, 1.0), ("mscale", None, 1.0), ("mscale_all_dim", 0, 0.7),
    ],
)  # fmt: skip
def test_value_of_yarn_that_libllama_would_not_use_is_refused(key: str, usual: object, other: object) -> None:
    assert parsed_rope(rope_parameters={**YARN, key: usual}) == parsed_rope(rope_parameters=YARN)
    with pytest.raises(BadCheckpoint, match=f"config.json has {key} {other}"):
        parsed_rope(rope_parameters={**YARN, key: other})


@pytest.mark.parametrize(
    "settings",
    [
        changed("text_config", hidden_act="gelu"),
        changed("text_config", layer_types=["linear_attention"] * 3 + ["sliding_attention"]),
        changed("vision_config", hidden_act="quick_gelu"),
        changed("vision_config", hidden_act="silu"),
    ],
)
def test_parts_that_llama_cpp_computes_otherwise_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match=r"llama\.cpp computes Qwen3\.5 with") as caught:
        parse_config(settings)
    assert "transformers" in caught.value.hint


@given(
    st.sampled_from(["num_hidden_layers", "hidden_size", "num_experts", "linear_conv_kernel_dim", "vocab_size"]),
    st.one_of(st.booleans(), st.floats().filter(lambda value: value != int(value) if abs(value) < 1e9 else True),
              st.integers(max_value=0), st.text(), st.none(), st.lists(st.integers())),
)  # fmt: skip
def test_size_that_is_no_whole_number_is_refused(key: str, value: object) -> None:
    with pytest.raises(BadCheckpoint):
        parse_config(changed("text_config", **{key: value}))


@pytest.mark.parametrize(
    "settings",
    [
        changed("text_config", rms_norm_eps=float("nan")),
        changed("text_config", rms_norm_eps=-1e-6),
        changed("text_config", num_experts_per_tok=9),
        changed("text_config", rope_parameters={**ROPE, "rope_theta": 0}),
        changed("text_config", rope_parameters={**ROPE, "rope_theta": float("inf")}),
        changed("text_config", rope_parameters={**ROPE, "mrope_section": [-1, 2, 3]}),
        changed("text_config", rope_parameters={**YARN, "factor": float("nan")}),
        changed("vision_config", num_heads=7),
        changed("vision_config", num_position_embeddings=250),
    ],
)
def test_values_that_make_no_model_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint):
        parse_config(settings)


def test_usual_values_and_those_without_effect_are_read() -> None:
    assert parse_config(changed("text_config", hidden_act="swish", sliding_window=128)).experts == 8
    assert parse_config(changed("text_config", hidden_size=256.0)).hidden == 256
    assert parse_config(changed("vision_config", hidden_act="gelu_pytorch_tanh")).vision is not None
