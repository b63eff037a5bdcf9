"""Names, shapes and config.json of Qwen3.5 checkpoints, as published, of any size.

`Model` (sizes) and `Layout` (how a release stores them) come in; config.json and the type and shape of every tensor go
out. Written from the published checkpoints and independent of `quantize`, so that it can be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Spec = tuple[str, tuple[int, ...]]  # the safetensors type, and the shape, row-major
FP8_BLOCK = 128


@dataclass(frozen=True)
class Vision:
    """The sizes of a vision encoder; small by default."""

    depth: int = 2
    hidden: int = 128
    heads: int = 2
    width: int = 256
    positions: int = 256


@dataclass(frozen=True)
class Model:
    """The sizes of a model; small by default. `width` is that of an expert, or of a dense model's feed-forward."""

    hidden: int = 256
    layers: int = 4
    attention_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    key_heads: int = 2
    value_heads: int = 4
    linear_dim: int = 64
    width: int = 256
    experts: int = 8
    experts_used: int = 2
    shared_width: int = 256
    vocabulary: int = 1984
    tied: bool = False
    mtp: bool = True
    vision: Vision | None = Vision()
    yarn: bool = False


def _moe(
    hidden: int, layers: int, attention_heads: int, value_heads: int, experts: int, used: int, width: int
) -> Model:
    return Model(
        hidden, layers, attention_heads, 2, 256, 16, value_heads, 128, width, experts, used, width, 248_320,
        vision=Vision(27, 1152, 16, 4304, 2304),
    )  # fmt: skip


def _dense(hidden: int, layers: int, heads: tuple[int, int], value_heads: int, width: int, vision: Vision) -> Model:
    return Model(
        hidden, layers, *heads, 256, 16, value_heads, 128, width, 0, 0, 0, 248_320, tied=hidden < 4096, vision=vision
    )


PUBLISHED = {
    "397B": _moe(4096, 60, 32, 64, 512, 10, 1024),
    "122B": _moe(3072, 48, 32, 64, 256, 8, 1024),
    "35B": _moe(2048, 40, 16, 32, 256, 8, 512),
    "27B": _dense(5120, 64, (24, 4), 48, 17_408, Vision(27, 1152, 16, 4304, 2304)),
    "9B": _dense(4096, 32, (16, 4), 32, 12_288, Vision(27, 1152, 16, 4304, 2304)),
    "4B": _dense(2560, 32, (16, 4), 32, 9216, Vision(24, 1024, 16, 4096, 2304)),
    "2B": _dense(2048, 24, (8, 2), 16, 6144, Vision(24, 1024, 16, 4096, 2304)),
    "0.8B": _dense(1024, 24, (8, 2), 16, 3584, Vision(12, 768, 12, 3072, 2304)),
}


@dataclass(frozen=True)
class Layout:
    """How a release stores its tensors. The BF16 releases of 3.5 pack the trunk's experts, but not the MTP block's."""

    dtype: Literal["BF16", "F16", "F32"] = "BF16"
    trunk_experts: Literal["packed", "single"] = "packed"
    mtp_experts: Literal["packed", "single"] = "single"
    fp8: bool = False
    flat: bool = False


FP8 = Layout(trunk_experts="single", mtp_experts="single", fp8=True)


def specs(model: Model, layout: Layout) -> dict[str, Spec]:
    """The type and shape of every tensor of the checkpoint."""
    trunk = "model" if layout.flat else "model.language_model"
    shapes = {f"{trunk}.embed_tokens.weight": (model.vocabulary, model.hidden), f"{trunk}.norm.weight": (model.hidden,)}
    for layer in range(model.layers):
        full = (layer + 1) % 4 == 0
        shapes |= dict(_block(model, f"{trunk}.layers.{layer}", layout.trunk_experts, full=full))
    if model.mtp:
        shapes |= dict(_mtp(model, layout.mtp_experts))
    if not model.tied:
        shapes["lm_head.weight"] = (model.vocabulary, model.hidden)
    if model.vision and not layout.flat:
        shapes |= dict(_vision(model.vision, model.hidden))
    return dict(_typed(shapes, layout))


_Shapes = Iterator[tuple[str, tuple[int, ...]]]
_IN_FP8 = (
    "q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkv", "in_proj_z", "out_proj", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip


def _typed(shapes: dict[str, tuple[int, ...]], layout: Layout) -> Iterator[tuple[str, Spec]]:
    for name, shape in shapes.items():
        if name.endswith((".A_log", "linear_attn.norm.weight")):
            yield name, ("F32", shape)
        elif layout.fp8 and name.removesuffix(".weight").endswith(_IN_FP8):
            yield name, ("F8_E4M3", shape)
            yield f"{name}_scale_inv", ("BF16", tuple(-(-size // FP8_BLOCK) for size in shape))
        else:
            yield name, (layout.dtype, shape)


def _mtp(model: Model, experts: str) -> _Shapes:
    yield "mtp.fc.weight", (model.hidden, 2 * model.hidden)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        yield f"mtp.{name}.weight", (model.hidden,)
    yield from _block(model, "mtp.layers.0", experts, full=True)


def _block(model: Model, name: str, experts: str, *, full: bool) -> _Shapes:
    yield f"{name}.input_layernorm.weight", (model.hidden,)
    yield f"{name}.post_attention_layernorm.weight", (model.hidden,)
    yield from _full_attention(model, f"{name}.self_attn") if full else _linear_attention(model, f"{name}.linear_attn")
    yield from _experts(model, f"{name}.mlp", experts) if model.experts else _gated(model, f"{name}.mlp", model.width)


def _full_attention(model: Model, name: str) -> _Shapes:
    queries, keys = model.attention_heads * model.head_dim, model.kv_heads * model.head_dim
    yield f"{name}.q_proj.weight", (2 * queries, model.hidden)
    yield f"{name}.k_proj.weight", (keys, model.hidden)
    yield f"{name}.v_proj.weight", (keys, model.hidden)
    yield f"{name}.o_proj.weight", (model.hidden, queries)
    yield f"{name}.q_norm.weight", (model.head_dim,)
    yield f"{name}.k_norm.weight", (model.head_dim,)


def _linear_attention(model: Model, name: str) -> _Shapes:
    values, hidden = model.value_heads * model.linear_dim, model.hidden
    channels = 2 * model.key_heads * model.linear_dim + values
    yield f"{name}.in_proj_qkv.weight", (channels, hidden)
    yield f"{name}.in_proj_z.weight", (values, hidden)
    yield f"{name}.in_proj_a.weight", (model.value_heads, hidden)
    yield f"{name}.in_proj_b.weight", (model.value_heads, hidden)
    yield f"{name}.A_log", (model.value_heads,)
    yield f"{name}.dt_bias", (model.value_heads,)
    yield f"{name}.conv1d.weight", (channels, 1, 4)
    yield f"{name}.norm.weight", (model.linear_dim,)
    yield f"{name}.out_proj.weight", (hidden, values)


def _experts(model: Model, name: str, experts: str) -> _Shapes:
    yield f"{name}.gate.weight", (model.experts, model.hidden)
    yield f"{name}.shared_expert_gate.weight", (1, model.hidden)
    yield from _gated(model, f"{name}.shared_expert", model.shared_width)
    if experts == "packed":
        yield f"{name}.experts.gate_up_proj", (model.experts, 2 * model.width, model.hidden)
        yield f"{name}.experts.down_proj", (model.experts, model.hidden, model.width)
    else:
        for expert in range(model.experts):
            yield from _gated(model, f"{name}.experts.{expert}", model.width)


def _gated(model: Model, name: str, width: int) -> _Shapes:
    yield f"{name}.gate_proj.weight", (width, model.hidden)
    yield f"{name}.up_proj.weight", (width, model.hidden)
    yield f"{name}.down_proj.weight", (model.hidden, width)


def _vision(vision: Vision, text_hidden: int) -> _Shapes:
    hidden, width, merged = vision.hidden, vision.width, 4 * vision.hidden
    layers: list[tuple[str, tuple[int, ...]]] = [("patch_embed.proj", (hidden, 3, 2, 16, 16))]
    for block in range(vision.depth):
        layers += [
            (f"blocks.{block}.norm1", (hidden,)),
            (f"blocks.{block}.norm2", (hidden,)),
            (f"blocks.{block}.attn.qkv", (3 * hidden, hidden)),
            (f"blocks.{block}.attn.proj", (hidden, hidden)),
            (f"blocks.{block}.mlp.linear_fc1", (width, hidden)),
            (f"blocks.{block}.mlp.linear_fc2", (hidden, width)),
        ]
    layers += [("merger.norm", (hidden,)), ("merger.linear_fc1", (merged, merged))]
    layers += [("merger.linear_fc2", (text_hidden, merged))]
    yield "model.visual.pos_embed.weight", (vision.positions, hidden)
    for name, shape in layers:
        yield f"model.visual.{name}.weight", shape
        yield f"model.visual.{name}.bias", shape[:1]


def config(model: Model, layout: Layout) -> dict[str, Any]:
    """config.json: nested as published, or flat as of a text-only model."""
    kind = "qwen3_5_moe" if model.experts else "qwen3_5"
    head = {"architectures": [_architecture(model, layout)], "tie_word_embeddings": model.tied}
    if layout.fp8:
        block = {"weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
        head["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", **block}
    if layout.flat:
        return {**_text_config(model), **head, "model_type": f"{kind}_text"}
    vision = {"vision_config": _vision_config(model, model.vision)} if model.vision else {}
    return {**head, "model_type": kind, "text_config": {"model_type": f"{kind}_text", **_text_config(model)}, **vision}


def _architecture(model: Model, layout: Layout) -> str:
    return f"Qwen3_5{'Moe' if model.experts else ''}For{'CausalLM' if layout.flat else 'ConditionalGeneration'}"


def _text_config(model: Model) -> dict[str, Any]:
    pairs = model.head_dim // 8
    rope = {"rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25, "mrope_interleaved": True}
    rope["mrope_section"] = [-(-pairs // 3), -(-pairs // 3), pairs - 2 * -(-pairs // 3)]
    if model.yarn:
        rope |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144}
    layers = ["full_attention" if (layer + 1) % 4 == 0 else "linear_attention" for layer in range(model.layers)]
    return {
        "vocab_size": model.vocabulary, "hidden_size": model.hidden, "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim, "hidden_act": "silu", "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6,
        "rope_parameters": rope, "layer_types": layers, "full_attention_interval": 4, "attention_bias": False,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": model.linear_dim, "linear_value_head_dim": model.linear_dim,
        "linear_num_key_heads": model.key_heads, "linear_num_value_heads": model.value_heads, "eos_token_id": 1958,
        "mtp_num_hidden_layers": 1, "tie_word_embeddings": model.tied, **_feed_forward_config(model),
    }  # fmt: skip


def _feed_forward_config(model: Model) -> dict[str, int]:
    if not model.experts:
        return {"intermediate_size": model.width}
    return {
        "num_experts": model.experts, "num_experts_per_tok": model.experts_used, "moe_intermediate_size": model.width,
        "shared_expert_intermediate_size": model.shared_width,
    }  # fmt: skip


def _vision_config(model: Model, vision: Vision) -> dict[str, Any]:
    return {
        "depth": vision.depth, "hidden_size": vision.hidden, "num_heads": vision.heads,
        "intermediate_size": vision.width, "out_hidden_size": model.hidden, "patch_size": 16, "temporal_patch_size": 2,
        "spatial_merge_size": 2, "in_channels": 3, "num_position_embeddings": vision.positions,
        "hidden_act": "gelu_pytorch_tanh", "deepstack_visual_indexes": [],
    }  # fmt: skip
