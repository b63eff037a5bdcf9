"""How many bytes a context and its graphs take beside the weights.

Numbers of a model and of a context come in, bytes go out. Cache and state follow llama.cpp's src/llama-kv-cache.cpp and
src/llama-memory-recurrent.cpp exactly. The buffers of the graphs are an estimate, for machines and files that are not
here: the largest tensors that live at the same time, as fitted to `no_alloc` loads of all published shapes with 512 to
2,048 tokens a micro-batch; where a load can be tried, its own figures take their place.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantize.ggml.types import GGML_TYPES
from qwenctl.placement.tensor_inventory import ModelDims

_F16, _F32 = 2, 4
_CELLS = 256  # the context is a multiple of this (llama_context, GGML_PAD)
# A device that follows another gets the activations of it too. With pipelining there are four copies of all inputs
# (GGML_SCHED_MAX_COPIES), of which the mask is the large one.
_LATER_DEVICE, _PIPELINED, _COPIES = 1.35, 1.6, 4
_FIXED_BYTES = 1 << 20


@dataclass(frozen=True)
class ContextParams:
    """What is asked of a context. `cache_k` and `cache_v` are ggml's names of types; `flash` flash attention."""

    tokens: int
    sequences: int
    cache_k: str
    cache_v: str
    micro_batch: int
    flash: bool = True
    forks: int = 0  # more copies of the recurrent state, for drafts that may be taken back


def cache_bytes(shape: ModelDims, context: ContextParams) -> int:
    """Bytes of the KV cache of one layer with full attention."""
    width = shape.kv_heads * shape.head_dim
    row = sum(GGML_TYPES[kind.upper()].row_bytes(width) for kind in (context.cache_k, context.cache_v))
    return row * _padded(context)


def state_bytes(shape: ModelDims, context: ContextParams) -> int:
    """Bytes of the state of one recurrent layer."""
    return _F32 * shape.state * (context.sequences + context.forks)


def device_compute(
    shape: ModelDims, context: ContextParams, *, mixed: bool, later: bool = False, pipelined: bool = False
) -> int:
    """Bytes of the graph's buffers on a device; `mixed` if experts lie in RAM too."""
    rows = [_linear(shape), _experts_on_device(shape) if shape.experts else _feed_forward(shape)]
    if mixed and shape.experts:
        rows.append(shape.experts_used * shape.hidden + 7 * shape.hidden + 2 * shape.width)
    factor = _PIPELINED if pipelined else _LATER_DEVICE if later else 1.0
    copies = _COPIES if pipelined else 1
    return int(_F32 * max(rows) * context.micro_batch * factor) + copies * _mask(shape, context) + _FIXED_BYTES


def ram_compute(
    shape: ModelDims, context: ContextParams, *, experts: bool, layers: bool, pipelined: bool = False
) -> int:
    """Bytes of the graph's buffers in RAM, which computes the routed experts, or whole layers, or the rest alone."""
    row = 3 * shape.hidden
    if experts or layers:
        row = _experts_on_device(shape) if shape.experts else _feed_forward(shape)
    if layers:
        row = max(_linear(shape), row) + 2 * shape.hidden
    copies = _COPIES if pipelined else 1
    return copies * (_F32 * row * context.micro_batch + _mask(shape, context)) + _FIXED_BYTES


def _linear(shape: ModelDims) -> int:
    """Numbers a token of a layer with linear attention: what the convolution reads, gives, and the gate beside it."""
    inner = shape.linear_inner
    return 3 * (inner + 2 * shape.linear_keys) + inner


def _experts_on_device(shape: ModelDims) -> int:
    return shape.experts_used * (2 * shape.width + shape.hidden) + 6 * shape.hidden


def _feed_forward(shape: ModelDims) -> int:
    return 3 * shape.width + 3 * shape.hidden


def _mask(shape: ModelDims, context: ContextParams) -> int:
    """The mask of attention; without flash attention the scores of all heads stand beside it."""
    cells = _padded(context) // context.sequences * context.micro_batch
    return cells * _F16 + (0 if context.flash else cells * shape.heads * _F32)


def _padded(context: ContextParams) -> int:
    return -(-context.tokens // _CELLS) * _CELLS
