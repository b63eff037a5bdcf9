"""The memory that a context takes beside the weights: KV cache, recurrent state, buffers.

Keys of a GGUF header or a parsed config come in, bytes go out. Formulas: llama.cpp's src/llama-hparams.cpp (sizes of
the recurrent state) and src/llama-kv-cache.cpp; only layers with full attention have a KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import QuantizeError
from quantize.ggml.types import GGML_TYPES
from quantize.gguf_header import read_leading_metadata
from quantize.qwen35.model_config import ModelConfig

DRAFT_HEAD_TOKENS = 1024  # how far back the draft head looks at most, in a cache of its own
USUAL_TOKENS = 32_768  # what `qwenctl chat` takes where the model has more
# Measured with 512 tokens a batch: the graph's buffers of the published models, and the runtime of a device.
_BUFFER_BYTES = 600 << 20
_F16, _F32 = 2, 4


@dataclass(frozen=True)
class ContextMemory:
    """Bytes for each token (F16 cache), bytes for each sequence, and the model's longest context (0: unknown)."""

    token_bytes: int
    state_bytes: int
    longest: int

    def bytes_a_token(self, cache_k: str, cache_v: str) -> float:
        """Bytes for each token with other types of the cache, by ggml's names."""
        both = (GGML_TYPES[name.upper()] for name in (cache_k, cache_v))
        return self.token_bytes / 2 * sum(kind.block_bytes / kind.block_elements for kind in both) / _F16

    @property
    def tokens(self) -> int:
        """The tokens of a usual context."""
        return min(USUAL_TOKENS, self.longest) if self.longest else USUAL_TOKENS

    @property
    def n_bytes(self) -> int:
        """Bytes of a usual context, with the buffers."""
        return self.token_bytes * self.tokens + self.state_bytes + _BUFFER_BYTES


def of_config(config: ModelConfig) -> ContextMemory:
    """The memory of a context of a checkpoint's model."""
    linear = sum(config.linear_layers)
    return ContextMemory(
        (config.layers - linear) * config.kv_heads * 2 * config.head_dim * _F16,
        linear * _state(config.conv_kernel, config.value_channels, config.linear_key_heads, config.linear_key_dim),
        config.context,
    )


def of_file(path: Path) -> ContextMemory | None:
    """The memory of a context of the GGUF model at `path`; None if its header does not tell."""
    try:
        return of_metadata(read_leading_metadata(path))
    except (QuantizeError, OSError):
        return None


def of_metadata(metadata: Mapping[str, object]) -> ContextMemory | None:
    """The memory of a context of a GGUF model; None if its header does not tell."""
    name = metadata.get("general.architecture")

    def number(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{name}.{key}", default)
        if not isinstance(value, int):
            raise TypeError(key)
        return value

    try:
        layers = number("block_count") - number("nextn_predict_layers", 0)
        full = layers // number("full_attention_interval", 4)
        head = number("attention.key_length") + number("attention.value_length")
        inner, groups, state = (number(f"ssm.{key}") for key in ("inner_size", "group_count", "state_size"))
        one = _state(number("ssm.conv_kernel"), inner, groups, state)
        token = full * number("attention.head_count_kv") * head * _F16
        return ContextMemory(token, (layers - full) * one, number("context_length", 0))
    except (TypeError, ZeroDivisionError):
        return None


def _state(conv_kernel: int, inner: int, groups: int, state: int) -> int:
    """The recurrent state of one layer: what the convolution remembers, and the matrix of the delta rule."""
    return _F32 * ((conv_kernel - 1) * (inner + 2 * groups * state) + state * inner)


_PUBLISHED = {262_144: 1_010_000}
_STEP = 0.5


def longest_context(trained: int) -> int:
    """The most tokens that a model trained on `trained` can be given."""
    return _PUBLISHED.get(trained, trained)


def scaling_factor(tokens: int, trained: int) -> float:
    """By how much positions are scaled: 1 up to the training's length, then the next half that is enough."""
    return 1.0 if tokens <= trained else math.ceil(tokens / trained / _STEP) * _STEP
