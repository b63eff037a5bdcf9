"""Compute the memory that a context takes besides the weights: KV cache, recurrent state, buffers.

Keys of a GGUF header or a parsed config come in, sizes in bytes go out. Formulas: llama.cpp's src/llama-hparams.cpp
(sizes of the recurrent state) and src/llama-kv-cache.cpp; only layers with full attention have a KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from quantize.errors import QuantizeError
from quantize.ggml.types import GGML_TYPES
from quantize.gguf_header import read_leading_metadata
from quantize.qwen35.model_config import ModelConfig

MTP_HEAD_TOKENS = 1024  # the MTP head's attention window, and the size of its own KV cache
DEFAULT_TOKENS = 32_768  # the context of `qwenctl chat` if the model allows more
# Measured with batches of 512 tokens: compute buffers of the published models, and a device's runtime.
_BUFFER_BYTES = 600 << 20
_F16, _F32 = 2, 4


@dataclass(frozen=True)
class ContextMemory:
    """Bytes per token (F16 KV cache), bytes per sequence, and the model's maximum context in tokens (0: unknown)."""

    token_bytes: int
    state_bytes: int
    max_tokens: int

    def bytes_per_token(self, cache_k: str, cache_v: str) -> float:
        """Bytes per token with other KV cache types, given by ggml type name (`cache_k`, `cache_v`)."""
        ggml_types = (GGML_TYPES[name.upper()] for name in (cache_k, cache_v))
        # K and V each take half of `token_bytes`; scale each half from F16 to the size of its type.
        element_bytes = sum(ggml_type.block_bytes / ggml_type.block_elements for ggml_type in ggml_types)
        return self.token_bytes / 2 * element_bytes / _F16

    @property
    def tokens(self) -> int:
        """The default context size in tokens."""
        return min(DEFAULT_TOKENS, self.max_tokens) if self.max_tokens else DEFAULT_TOKENS

    @property
    def n_bytes(self) -> int:
        """Bytes of a default context, including compute buffers."""
        return self.token_bytes * self.tokens + self.state_bytes + _BUFFER_BYTES


def context_memory_from_config(config: ModelConfig) -> ContextMemory:
    """Context memory of a checkpoint, from its parsed config.json."""
    linear = sum(config.linear_layers)
    return ContextMemory(
        (config.layers - linear) * config.kv_heads * 2 * config.head_dim * _F16,
        linear
        * _F32
        * state_values(config.conv_kernel, config.value_channels, config.linear_key_heads, config.linear_key_dim),
        config.context,
    )


def context_memory_from_file(path: Path) -> ContextMemory | None:
    """Context memory of the GGUF model at `path`; None if its header does not have the numbers."""
    try:
        return context_memory_from_metadata(read_leading_metadata(path))
    except (QuantizeError, OSError):
        return None


def context_memory_from_metadata(metadata: Mapping[str, object]) -> ContextMemory | None:
    """Context memory of a model from its GGUF metadata; None if that does not have the numbers."""
    number = partial(metadata_number, metadata)
    # Keys and defaults as in llama.cpp. The MTP block counts as a layer in the file, but not in a context.
    try:
        layers = number("block_count") - number("nextn_predict_layers", 0)
        full = layers // number("full_attention_interval", 4)
        head = number("attention.key_length") + number("attention.value_length")
        inner, groups, state = (number(f"ssm.{key}") for key in ("inner_size", "group_count", "state_size"))
        state_bytes = _F32 * state_values(number("ssm.conv_kernel"), inner, groups, state)
        token = full * number("attention.head_count_kv") * head * _F16
        return ContextMemory(token, (layers - full) * state_bytes, number("context_length", 0))
    except (ValueError, ZeroDivisionError):
        return None


def metadata_number(metadata: Mapping[str, object], key: str, default: int | None = None) -> int:
    """The whole number of the model's architecture at `key`, such as "block_count". Raises ValueError."""
    value = metadata.get(f"{metadata.get('general.architecture')}.{key}", default)
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} is {value!r:.40}, not a whole number")
    return value


def state_values(conv_kernel: int, inner: int, groups: int, state: int) -> int:
    """The number of values in one layer's recurrent state: the convolution's window, and the delta rule's state matrix.

    Source: n_embd_r and n_embd_s in llama.cpp's src/llama-hparams.cpp.
    """
    return (conv_kernel - 1) * (inner + 2 * groups * state) + state * inner


# Trained context to maximum context with YaRN, in tokens, from the model cards; and the step of the scaling factor.
_EXTENDED_CONTEXT = {262_144: 1_010_000}
_FACTOR_STEP = 0.5


def max_context(trained: int) -> int:
    """The maximum context, in tokens, that is published for a model trained on `trained` tokens."""
    return _EXTENDED_CONTEXT.get(trained, trained)


def rope_scaling_factor(tokens: int, trained: int) -> float:
    """The RoPE scaling factor for a context of `tokens`: 1 up to `trained`, then the next multiple of 0.5."""
    return 1.0 if tokens <= trained else math.ceil(tokens / trained / _FACTOR_STEP) * _FACTOR_STEP
