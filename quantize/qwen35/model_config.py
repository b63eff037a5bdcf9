"""config.json of a Qwen3.5 model as named numbers.

The JSON object comes in, a frozen `ModelConfig` goes out; whether the tensors agree with it is checked where they are
laid out (`text_tensors`, `vision_tensors`). Names follow the field; sizes are counts of elements. Keys and their
nesting are those of the published configs (transformers' `Qwen3_5MoeConfig` and `Qwen3_5Config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantize.errors import BadCheckpoint

_ARCHITECTURES = {
    "Qwen3_5MoeForConditionalGeneration": "qwen35moe",
    "Qwen3_5MoeForCausalLM": "qwen35moe",
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Qwen3_5ForCausalLM": "qwen35",
}


_MOST_LAYERS, _MOST_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS in llama.cpp's src/llama-hparams.h


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower. `position_embeddings` is a square number: the side of the grid squared."""

    depth: int
    hidden: int
    heads: int
    feed_forward: int
    output: int
    patch: int
    temporal_patch: int
    channels: int
    merge: int
    position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """The text model, and `vision` if there is a tower. `experts` is 0 for a dense model."""

    architecture: str
    hidden: int
    layers: int
    linear_layers: tuple[bool, ...]
    full_attention_interval: int
    vocabulary: int
    context: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope_theta: float
    rotary_dim: int
    rope_sections: tuple[int, ...]
    yarn_factor: float
    yarn_original_context: int
    linear_key_heads: int
    linear_value_heads: int
    linear_key_dim: int
    linear_value_dim: int
    conv_kernel: int
    feed_forward: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    shared_expert_feed_forward: int
    tied_embeddings: bool
    fp8_block: tuple[int, int] | None
    vision: VisionConfig | None

    @property
    def query_groups(self) -> int:
        """Query heads for each KV head."""
        return self.attention_heads // self.kv_heads

    @property
    def key_channels(self) -> int:
        """Width of the linear-attention keys of all heads (and of the queries)."""
        return self.linear_key_heads * self.linear_key_dim

    @property
    def value_channels(self) -> int:
        """Width of the linear-attention values of all heads."""
        return self.linear_value_heads * self.linear_value_dim


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """The numbers of config.json. Raises BadCheckpoint if it is another model's, or lacks a number."""
    architecture = _architecture(config)
    try:
        text: Mapping[str, Any] = {**config, **config.get("text_config", {})}
        parsed = _parse(architecture, text, config)
        _check(parsed)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has an invalid value: {error}"
        raise BadCheckpoint(f"config.json {what}", "download config.json again") from error
    return parsed


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or config.get("model_type") or "nothing"
    names = names if isinstance(names, list) else [names]
    for name in names:
        if isinstance(name, str) and name in _ARCHITECTURES:
            return _ARCHITECTURES[name]
    raise BadCheckpoint(
        f"not a Qwen3.5 checkpoint: config.json says {names[0]}", f"supported: {', '.join(_ARCHITECTURES)}"
    )


def _parse(architecture: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> ModelConfig:
    layers, moe = _size(text, "num_hidden_layers", _MOST_LAYERS), architecture == "qwen35moe"
    head_dim = _size(text, "head_dim") if text.get("head_dim") else text["hidden_size"] // text["num_attention_heads"]
    interval = _size({"full_attention_interval": 4, **text}, "full_attention_interval")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    sections = tuple(int(size) for size in rope.get("mrope_section", (11, 11, 10)))
    yarn = rope.get("rope_type", rope.get("type")) == "yarn"
    return ModelConfig(
        architecture=architecture,
        hidden=_size(text, "hidden_size"),
        layers=layers,
        linear_layers=_linear_layers(text.get("layer_types"), layers, interval),
        full_attention_interval=interval,
        vocabulary=_size(text, "vocab_size"),
        context=_size(text, "max_position_embeddings"),
        attention_heads=_size(text, "num_attention_heads"),
        kv_heads=_size(text, "num_key_value_heads"),
        head_dim=head_dim,
        norm_epsilon=float(text["rms_norm_eps"]),
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 10_000_000))),
        rotary_dim=int(head_dim * float(rope.get("partial_rotary_factor", text.get("partial_rotary_factor", 0.25)))),
        rope_sections=sections + (0,) * (4 - len(sections)),  # libllama demands four
        yarn_factor=float(rope["factor"]) if yarn else 0.0,
        yarn_original_context=_size(rope, "original_max_position_embeddings") if yarn else 0,
        linear_key_heads=_size(text, "linear_num_key_heads"),
        linear_value_heads=_size(text, "linear_num_value_heads"),
        linear_key_dim=_size(text, "linear_key_head_dim"),
        linear_value_dim=_size(text, "linear_value_head_dim"),
        conv_kernel=_size(text, "linear_conv_kernel_dim"),
        feed_forward=0 if moe else _size(text, "intermediate_size"),
        experts=_size(text, "num_experts", _MOST_EXPERTS) if moe else 0,
        experts_used=_size(text, "num_experts_per_tok") if moe else 0,
        expert_feed_forward=_size(text, "moe_intermediate_size") if moe else 0,
        shared_expert_feed_forward=_size(text, "shared_expert_intermediate_size") if moe else 0,
        tied_embeddings=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        fp8_block=_fp8_block(config.get("quantization_config") or text.get("quantization_config")),
        vision=_vision(config.get("vision_config")),
    )


def _size(config: Mapping[str, Any], key: str, most: int = 2**31 - 1) -> int:
    value = int(config[key])
    if not 1 <= value <= most:
        raise ValueError(f"{key} is {value}; it must be from 1 to {most:,}")
    return value


def _check(config: ModelConfig) -> None:
    """Raise ValueError for numbers that cannot be, or that llama.cpp cannot run."""
    if config.linear_key_dim != config.linear_value_dim:
        raise ValueError("linear_key_head_dim and linear_value_head_dim differ, which llama.cpp cannot run")
    if not 1 <= config.rotary_dim <= config.head_dim or len(config.rope_sections) > 4:
        raise ValueError("head_dim, partial_rotary_factor and mrope_section are inconsistent")
    if config.attention_heads % config.kv_heads or config.linear_value_heads % config.linear_key_heads:
        raise ValueError("a number of heads is not a multiple of its key heads")


def _linear_layers(layer_types: list[str] | None, layers: int, interval: int) -> tuple[bool, ...]:
    """Which layers have linear attention: as listed, else all but each `interval`-th."""
    if layer_types is None:
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    if len(layer_types) != layers:
        raise ValueError(f"layer_types has {len(layer_types)} entries for {layers} layers")
    return tuple(kind == "linear_attention" for kind in layer_types)


def _fp8_block(quantization: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Rows and columns that share a scale, for block-scaled FP8; None for a checkpoint that is not quantized."""
    if not quantization:
        return None
    method = quantization.get("quant_method")
    if method != "fp8" or not quantization.get("weight_block_size"):
        raise BadCheckpoint(
            f"the checkpoint is already quantized ({method}); BF16, F16, F32 and block-scaled FP8 can be read",
            "start from the BF16 or the FP8 repository of the same model",
        )
    rows, columns = map(int, quantization["weight_block_size"])
    if min(rows, columns) < 1:
        raise ValueError(f"weight_block_size is {[rows, columns]}")
    return rows, columns


def _vision(vision: Mapping[str, Any] | None) -> VisionConfig | None:
    if not vision:
        return None
    if vision.get("deepstack_visual_indexes"):
        raise ValueError("deepstack_visual_indexes is not empty, which no published Qwen3.5 has")
    return VisionConfig(
        depth=_size(vision, "depth", _MOST_LAYERS),
        hidden=_size(vision, "hidden_size"),
        heads=_size(vision, "num_heads"),
        feed_forward=_size(vision, "intermediate_size"),
        output=_size(vision, "out_hidden_size"),
        patch=_size(vision, "patch_size"),
        temporal_patch=_size(vision, "temporal_patch_size"),
        channels=_size({"in_channels": 3, **vision}, "in_channels"),
        merge=_size(vision, "spatial_merge_size"),
        position_embeddings=_size(vision, "num_position_embeddings"),
    )
