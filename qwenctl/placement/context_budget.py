"""The memory that a context and its compute graphs take besides the weights.

The dimensions of a model and the parameters of a context come in, bytes go out. KV cache and recurrent state follow
llama.cpp's src/llama-kv-cache.cpp and src/llama-memory-recurrent.cpp exactly. The compute buffers are an estimate, for
machines and files that are not available: the largest tensors that live at the same time, fitted to `no_alloc` loads of
all published model sizes with micro-batches of 512 to 2,048 tokens. Where a trial load is possible, its measurements
replace them.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantize.ggml.types import GGML_TYPES
from qwenctl.placement.tensor_inventory import ModelDims

_F16, _F32 = 2, 4
_CELLS = 256  # contexts are padded to a multiple of this (llama_context, GGML_PAD)
# A device that follows another one also holds that one's activations. With pipelining there are four copies of all
# inputs (GGML_SCHED_MAX_COPIES), the largest of which is the mask.
_LATER_DEVICE, _PIPELINED, _COPIES = 1.35, 1.6, 4
_FIXED_BYTES = 1 << 20


@dataclass(frozen=True)
class ContextParams:
    """The parameters of a context, with `tokens` for all `sequences` together.

    `cache_k` and `cache_v` are names of ggml types; `flash` is flash attention.
    """

    tokens: int
    sequences: int
    cache_k: str
    cache_v: str
    micro_batch: int
    flash: bool = True
    forks: int = 0  # additional copies of the recurrent state, for drafts that may be rolled back


def cache_bytes(shape: ModelDims, context: ContextParams) -> int:
    """Bytes of the KV cache of one full-attention layer."""
    width = shape.kv_heads * shape.head_dim
    token_bytes = sum(GGML_TYPES[dtype.upper()].row_bytes(width) for dtype in (context.cache_k, context.cache_v))
    return token_bytes * _padded_cells(context)


def state_bytes(shape: ModelDims, context: ContextParams) -> int:
    """Bytes of the state of one recurrent layer."""
    return _F32 * shape.state * (context.sequences + context.forks)


def device_compute(
    shape: ModelDims, context: ContextParams, *, mixed: bool, later: bool = False, pipelined: bool = False
) -> int:
    """Bytes of the compute buffers on a device; `mixed` if experts are in RAM too.

    `later` if another device comes before it; `pipelined` if llama.cpp runs several devices in a pipeline.
    """
    values_per_token = [
        _linear_attention_values(shape),
        _expert_values(shape) if shape.experts else _feed_forward_values(shape),
    ]
    if mixed and shape.experts:
        values_per_token.append(shape.experts_used * shape.hidden + 7 * shape.hidden + 2 * shape.width)
    factor = _PIPELINED if pipelined else _LATER_DEVICE if later else 1.0
    copies = _COPIES if pipelined else 1
    return (
        int(_F32 * max(values_per_token) * context.micro_batch * factor)
        + copies * _mask_bytes(shape, context)
        + _FIXED_BYTES
    )


def ram_compute(
    shape: ModelDims, context: ContextParams, *, experts: bool, layers: bool, pipelined: bool = False
) -> int:
    """Bytes of the compute buffers in RAM, where the CPU computes routed experts, whole layers, or neither."""
    values_per_token = 3 * shape.hidden
    if experts or layers:
        values_per_token = _expert_values(shape) if shape.experts else _feed_forward_values(shape)
    if layers:
        values_per_token = max(_linear_attention_values(shape), values_per_token) + 2 * shape.hidden
    copies = _COPIES if pipelined else 1
    return copies * (_F32 * values_per_token * context.micro_batch + _mask_bytes(shape, context)) + _FIXED_BYTES


def _linear_attention_values(shape: ModelDims) -> int:
    """Values per token in a linear-attention layer: the convolution's input and output, and the gate."""
    inner = shape.linear_inner
    return 3 * (inner + 2 * shape.linear_keys) + inner


def _expert_values(shape: ModelDims) -> int:
    return shape.experts_used * (2 * shape.width + shape.hidden) + 6 * shape.hidden


def _feed_forward_values(shape: ModelDims) -> int:
    return 3 * shape.width + 3 * shape.hidden


def _mask_bytes(shape: ModelDims, context: ContextParams) -> int:
    """Bytes of the attention mask; without flash attention also of the scores of all heads."""
    cells = _padded_cells(context) // context.sequences * context.micro_batch
    return cells * _F16 + (0 if context.flash else cells * shape.heads * _F32)


def _padded_cells(context: ContextParams) -> int:
    return -(-context.tokens // _CELLS) * _CELLS
