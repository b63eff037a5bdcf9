"""A tiny model of the family, generated in code: the model for the check of the backend.

A folder comes in, a GGUF file of about 5 MB goes out: a hybrid mixture of experts with the quantization types that
people use, each of them in the linear attention, the routed experts and the shared expert of a different layer. The
weights are the same on every machine and with every release of NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan

Floats = npt.NDArray[np.float32]

TYPES = ("Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "BF16")
VOCABULARY = 320
_LAYERS, _HIDDEN, _EXPERTS, _EXPERTS_USED = 5, 256, 4, 2  # all types for each tensor role; layer 4 has attention
_HEADS, _KV_HEADS, _HEAD_DIM = 4, 2, 64
_KEY_HEADS, _VALUE_HEADS, _LINEAR_DIM, _CONV = 2, 4, 64, 4
# The first dimensions decide which experts a token goes to, so clearly that rounding cannot change it: a different
# expert would look like a fault.
_ROUTED = 64
_SEED = 35
_TENSOR_ROLES = (r"(attn_\w+|ssm_out)", r"ffn_\w+_exps", r"ffn_\w+_shexp")


def make_tiny_model(folder: Path) -> Path:
    """The GGUF file in `folder`, made if it does not exist. Raises QuantizeError or OSError."""
    path, checkpoint = folder / "tiny.gguf", folder / "checkpoint"
    if path.exists():  # it only gets its name once it is complete
        return path
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "config.json").write_text(json.dumps(_config()))
    (checkpoint / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    save_file(dict(_tensors()), checkpoint / "model.safetensors")
    options = QuantizeOptions("Q6_K", overrides=tuple(_overrides()), mtp=False, vision=False)
    convert(make_plan(checkpoint, path, options), threads=2)
    return path


def _overrides() -> Iterator[str]:
    for layer in range(_LAYERS):
        for number, role in enumerate(_TENSOR_ROLES):
            yield rf"^blk\.{layer}\.{role}\.weight={TYPES[(layer + 2 * number) % len(TYPES)].lower()}"


def _config() -> dict[str, Any]:
    layer_types = ["full_attention" if (layer + 1) % 4 == 0 else "linear_attention" for layer in range(_LAYERS)]
    rope = {"rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]}
    return {
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "tie_word_embeddings": False,
        "vocab_size": VOCABULARY, "hidden_size": _HIDDEN, "num_hidden_layers": _LAYERS, "hidden_act": "silu",
        "num_attention_heads": _HEADS, "num_key_value_heads": _KV_HEADS, "head_dim": _HEAD_DIM,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_parameters": rope, "layer_types": layer_types,
        "full_attention_interval": 4, "attention_bias": False, "linear_conv_kernel_dim": _CONV,
        "linear_key_head_dim": _LINEAR_DIM, "linear_value_head_dim": _LINEAR_DIM,
        "linear_num_key_heads": _KEY_HEADS, "linear_num_value_heads": _VALUE_HEADS, "mtp_num_hidden_layers": 0,
        "num_experts": _EXPERTS, "num_experts_per_tok": _EXPERTS_USED, "moe_intermediate_size": _HIDDEN,
        "shared_expert_intermediate_size": _HIDDEN,
    }  # fmt: skip


def _tokenizer() -> dict[str, Any]:
    """GPT-2's byte alphabet, and one merge; the other tokens have no text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(unprintable))]
    vocabulary = {letter: number for number, letter in enumerate([*letters, "th"])}
    return {"model": {"type": "BPE", "vocab": vocabulary, "merges": ["t h"]}, "added_tokens": []}


def _tensors() -> Iterator[tuple[str, Floats]]:
    draw = _Draw()
    yield "model.embed_tokens.weight", _embeddings(draw)
    yield "model.norm.weight", draw(0.1, _HIDDEN)
    yield "lm_head.weight", draw(1.0, VOCABULARY, _HIDDEN)
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", draw(0.1, _HIDDEN)
        yield f"{name}.post_attention_layernorm.weight", draw(0.1, _HIDDEN)
        yield from _attention(draw, name) if (layer + 1) % 4 == 0 else _linear_attention(draw, name)
        yield from _experts(draw, f"{name}.mlp")


class _Draw:
    """Draws uniformly distributed numbers around 0 with a given standard deviation.

    NumPy guarantees that the bits of PCG64 never change.
    """

    def __init__(self) -> None:
        self._bits = np.random.PCG64(_SEED)

    def __call__(self, deviation: float, *shape: int) -> Floats:
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        return ((raw.astype(np.float64) / 2**23 - 1) * (deviation * 3**0.5)).astype(np.float32).reshape(shape)


def _embeddings(draw: _Draw) -> Floats:
    embeddings = draw(1.0, VOCABULARY, _HIDDEN)
    embeddings[:, :_ROUTED] *= 0.1
    width = _ROUTED // _EXPERTS
    for token in range(VOCABULARY):
        first = token % _EXPERTS * width
        embeddings[token, first : first + width] += 2
    return embeddings


def _router() -> Floats:
    """Tokens of class 0 go to experts 0 and 1, those of class 1 to experts 1 and 2, and so on."""
    router = np.zeros((_EXPERTS, _HIDDEN), np.float32)
    width = _ROUTED // _EXPERTS
    for expert in range(_EXPERTS):
        for token_class, weight in ((expert, 0.12), ((expert - 1) % _EXPERTS, 0.08)):
            router[expert, token_class * width : (token_class + 1) * width] = weight
    return router


def _projection(draw: _Draw, outputs: int, inputs: int) -> Floats:
    """A block's output projection, which hardly changes the dimensions that the router uses."""
    weights = draw(inputs**-0.5, outputs, inputs)
    weights[..., :_ROUTED, :] *= 0.05
    return weights


def _linear(draw: _Draw, outputs: int, inputs: int = _HIDDEN) -> Floats:
    return draw(inputs**-0.5, outputs, inputs)


def _attention(draw: _Draw, block: str) -> Iterator[tuple[str, Floats]]:
    name, queries, keys = f"{block}.self_attn", _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    yield f"{name}.q_proj.weight", _linear(draw, 2 * queries)
    yield f"{name}.k_proj.weight", _linear(draw, keys)
    yield f"{name}.v_proj.weight", _linear(draw, keys)
    yield f"{name}.o_proj.weight", _projection(draw, _HIDDEN, queries)
    yield f"{name}.q_norm.weight", draw(0.1, _HEAD_DIM)
    yield f"{name}.k_norm.weight", draw(0.1, _HEAD_DIM)


def _linear_attention(draw: _Draw, block: str) -> Iterator[tuple[str, Floats]]:
    name, values = f"{block}.linear_attn", _VALUE_HEADS * _LINEAR_DIM
    channels = 2 * _KEY_HEADS * _LINEAR_DIM + values
    yield f"{name}.in_proj_qkv.weight", _linear(draw, channels)
    yield f"{name}.in_proj_z.weight", _linear(draw, values)
    yield f"{name}.in_proj_a.weight", _linear(draw, _VALUE_HEADS)
    yield f"{name}.in_proj_b.weight", _linear(draw, _VALUE_HEADS)
    yield f"{name}.A_log", draw(0.5, _VALUE_HEADS)
    yield f"{name}.dt_bias", draw(0.5, _VALUE_HEADS)
    yield f"{name}.conv1d.weight", draw(0.5, channels, 1, _CONV)
    yield f"{name}.norm.weight", 1 + draw(0.1, _LINEAR_DIM)
    yield f"{name}.out_proj.weight", _projection(draw, _HIDDEN, values)


def _experts(draw: _Draw, name: str) -> Iterator[tuple[str, Floats]]:
    yield f"{name}.gate.weight", _router()
    yield f"{name}.shared_expert_gate.weight", _linear(draw, 1)
    yield f"{name}.experts.gate_up_proj", draw(1.5 * _HIDDEN**-0.5, _EXPERTS, 2 * _HIDDEN, _HIDDEN)
    down = [_projection(draw, _HIDDEN, _HIDDEN) for _ in range(_EXPERTS)]
    yield f"{name}.experts.down_proj", np.stack(down)
    yield f"{name}.shared_expert.gate_proj.weight", _linear(draw, _HIDDEN)
    yield f"{name}.shared_expert.up_proj.weight", _linear(draw, _HIDDEN)
    yield f"{name}.shared_expert.down_proj.weight", _projection(draw, _HIDDEN, _HIDDEN)
