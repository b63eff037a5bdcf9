"""Parse config.json of a Qwen3.5 model.

The JSON object comes in, a frozen `ModelConfig` goes out. Whether the tensors agree with it is not known here;
`text_tensors` and `vision_tensors` check that. All sizes are counts of elements. Keys and their nesting are those of
the published configs (transformers' `Qwen3_5MoeConfig` and `Qwen3_5Config`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from quantize.errors import BadCheckpoint
from quantize.qwen35.rope import Rope, not_computed, parse_rope

_ARCHITECTURES = {
    "Qwen3_5MoeForConditionalGeneration": "qwen35moe",
    "Qwen3_5MoeForCausalLM": "qwen35moe",
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Qwen3_5ForCausalLM": "qwen35",
}
# For configs without "architectures", as some trainers write them.
_MODEL_TYPES = {
    "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_5": "qwen35",
    "qwen3_5_text": "qwen35",
}


# llama.cpp aborts above these: LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS in src/llama-hparams.h.
MAX_LAYERS, MAX_EXPERTS = 512, 1024


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder. `position_embeddings` is the squared side length of the position grid."""

    depth: int
    hidden: int
    heads: int
    feed_forward: int
    output: int  # width of the embeddings for the text model
    patch: int  # side of a patch in pixels
    temporal_patch: int  # frames that share a patch
    channels: int
    merge: int  # side of the square of patches that becomes one token
    position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """The text model, and `vision` if there is a vision encoder. `experts` is 0 for a dense model."""

    architecture: str
    hidden: int
    layers: int
    linear_layers: tuple[bool, ...]  # for each layer, whether it has linear attention
    full_attention_interval: int
    vocabulary: int
    context: int  # tokens the model was trained on
    attention_heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope: Rope
    linear_key_heads: int
    linear_value_heads: int
    linear_key_dim: int
    linear_value_dim: int
    conv_kernel: int  # taps of the causal convolution
    feed_forward: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    shared_expert_feed_forward: int
    tied_embeddings: bool  # whether any part of config.json says so
    contradicts_tying: bool  # whether another part says the opposite
    promises_mtp: bool
    fp8_block: tuple[int, int] | None  # rows and columns that share a scale
    vision: VisionConfig | None

    @property
    def query_groups(self) -> int:
        """The number of query heads per KV head."""
        return self.attention_heads // self.kv_heads

    @property
    def key_channels(self) -> int:
        """Total width of the linear-attention keys of all heads; the queries have the same."""
        return self.linear_key_heads * self.linear_key_dim

    @property
    def value_channels(self) -> int:
        """Total width of the linear-attention values of all heads."""
        return self.linear_value_heads * self.linear_value_dim


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """Parse config.json. Raises BadCheckpoint if it is not of a Qwen3.5 model or if a value is missing or invalid."""
    architecture = find_architecture(config)
    try:
        # Multimodal releases nest the text model's values in text_config; text-only releases have them at the top.
        text: Mapping[str, Any] = {**config, **(config.get("text_config") or {})}
        parsed = _parse_model(architecture, text, config)
        _check_consistency(parsed)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, ZeroDivisionError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else f"has an invalid value: {error}"
        raise BadCheckpoint(f"config.json {problem}", "download config.json again") from error
    return parsed


def find_architecture(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of the architecture in config.json. Raises BadCheckpoint if it is not Qwen3.5."""
    names = config.get("architectures") or config.get("model_type") or "nothing"
    names = names if isinstance(names, list) else [names]
    for name in names:
        if isinstance(name, str) and name in _ARCHITECTURES:
            return _ARCHITECTURES[name]
    if not config.get("architectures") and isinstance(names[0], str) and names[0] in _MODEL_TYPES:
        return _MODEL_TYPES[names[0]]
    raise BadCheckpoint(
        f"not a Qwen3.5 checkpoint: config.json says {names[0]}", f"supported: {', '.join(_ARCHITECTURES)}"
    )


def _parse_model(architecture: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> ModelConfig:
    """Read all values; `text` has those of the text model, `config` is the whole file. Raises as `_read_size`."""
    layers, moe = _read_size(text, "num_hidden_layers", MAX_LAYERS), architecture == "qwen35moe"
    head_dim = (
        _read_size(text, "head_dim") if text.get("head_dim") else text["hidden_size"] // text["num_attention_heads"]
    )
    interval = _read_size({"full_attention_interval": 4, **text}, "full_attention_interval")
    if text.get("hidden_act") not in (None, "silu", "swish"):
        raise not_computed("hidden_act", text["hidden_act"], "silu")
    ties = [bool(part["tie_word_embeddings"]) for part in (config, text) if "tie_word_embeddings" in part]
    return ModelConfig(
        architecture=architecture,
        hidden=_read_size(text, "hidden_size"),
        layers=layers,
        linear_layers=_linear_layers(text.get("layer_types"), layers, interval),
        full_attention_interval=interval,
        vocabulary=_read_size(text, "vocab_size"),
        context=_read_size(text, "max_position_embeddings"),
        attention_heads=_read_size(text, "num_attention_heads"),
        kv_heads=_read_size(text, "num_key_value_heads"),
        head_dim=head_dim,
        norm_epsilon=float(text["rms_norm_eps"]),
        rope=parse_rope(text, head_dim),
        linear_key_heads=_read_size(text, "linear_num_key_heads"),
        linear_value_heads=_read_size(text, "linear_num_value_heads"),
        linear_key_dim=_read_size(text, "linear_key_head_dim"),
        linear_value_dim=_read_size(text, "linear_value_head_dim"),
        conv_kernel=_read_size(text, "linear_conv_kernel_dim"),
        feed_forward=0 if moe else _read_size(text, "intermediate_size"),
        experts=_read_size(text, "num_experts", MAX_EXPERTS) if moe else 0,
        experts_used=_read_size(text, "num_experts_per_tok") if moe else 0,
        expert_feed_forward=_read_size(text, "moe_intermediate_size") if moe else 0,
        shared_expert_feed_forward=_read_size(text, "shared_expert_intermediate_size") if moe else 0,
        tied_embeddings=any(ties),
        contradicts_tying=len(set(ties)) > 1,
        promises_mtp=bool(text.get("mtp_num_hidden_layers")),
        fp8_block=_parse_fp8_block(config.get("quantization_config") or text.get("quantization_config")),
        vision=_parse_vision(config.get("vision_config")),
    )


def _read_size(config: Mapping[str, Any], key: str, maximum: int = 2**31 - 1) -> int:
    """Read a whole number from 1 to `maximum`. Raises KeyError, TypeError or ValueError."""
    value = config[key]
    if isinstance(value, bool | str) or value != int(value) or not 1 <= value <= maximum:
        raise ValueError(f"{key} is {value!r}; it must be a whole number from 1 to {maximum:,}")
    return int(value)


def _check_consistency(config: ModelConfig) -> None:
    """Raise ValueError for values that cannot be used together or that llama.cpp cannot run."""
    if config.linear_key_dim != config.linear_value_dim:
        raise ValueError("linear_key_head_dim and linear_value_head_dim differ, which llama.cpp cannot run")
    if not (math.isfinite(config.norm_epsilon) and config.norm_epsilon >= 0):
        raise ValueError(f"rms_norm_eps is {config.norm_epsilon}")
    if config.experts_used > config.experts:
        raise ValueError(f"num_experts_per_tok is {config.experts_used}, for {config.experts} experts")
    if config.attention_heads % config.kv_heads or config.linear_value_heads % config.linear_key_heads:
        raise ValueError("a number of heads is not a multiple of its key heads")


def _linear_layers(layer_types: list[str] | None, layers: int, interval: int) -> tuple[bool, ...]:
    """Which layers have linear attention [layers]: as listed, or else all but every `interval`-th."""
    if layer_types is None:
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    if len(layer_types) != layers:
        raise ValueError(f"layer_types has {len(layer_types)} entries for {layers} layers")
    unknown = set(layer_types) - {"linear_attention", "full_attention"}
    if unknown:
        raise not_computed("layer_types", sorted(unknown), "linear_attention and full_attention")
    return tuple(layer_type == "linear_attention" for layer_type in layer_types)


def _parse_fp8_block(quantization: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """(Rows, columns) that share a scale in block-scaled FP8; None if not quantized. Raises BadCheckpoint."""
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


def _parse_vision(vision: Mapping[str, Any] | None) -> VisionConfig | None:
    """Read the values of the vision encoder; None if there is none. Raises as `_read_size`."""
    if not vision:
        return None
    if vision.get("deepstack_visual_indexes"):
        raise ValueError("deepstack_visual_indexes is not empty, which no published Qwen3.5 has")
    if "gelu" not in str(vision.get("hidden_act") or "gelu") or vision.get("hidden_act") == "quick_gelu":
        raise not_computed("hidden_act of the vision encoder", vision["hidden_act"], "gelu")
    parsed = _read_vision(vision)
    if parsed.hidden % parsed.heads or isqrt(parsed.position_embeddings) ** 2 != parsed.position_embeddings:
        raise ValueError("num_heads does not divide the vision encoder's hidden_size, or its grid is not square")
    return parsed


def _read_vision(vision: Mapping[str, Any]) -> VisionConfig:
    """Read the sizes of the vision encoder. Raises as `_read_size`."""
    return VisionConfig(
        depth=_read_size(vision, "depth", MAX_LAYERS),
        hidden=_read_size(vision, "hidden_size"),
        heads=_read_size(vision, "num_heads"),
        feed_forward=_read_size(vision, "intermediate_size"),
        output=_read_size(vision, "out_hidden_size"),
        patch=_read_size(vision, "patch_size"),
        temporal_patch=_read_size(vision, "temporal_patch_size"),
        channels=_read_size({"in_channels": 3, **vision}, "in_channels"),
        merge=_read_size(vision, "spatial_merge_size"),
        position_embeddings=_read_size(vision, "num_position_embeddings"),
    )
