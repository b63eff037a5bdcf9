"""Recognize checkpoints of Qwen3.5 whose weights were quantized or rewritten by another tool, and name the tool.

A `Checkpoint` comes in, and a BadCheckpoint with the tool's name goes out, or nothing. The tensors decide, not
config.json: merged 16-bit models often keep the quantization_config of the model that they were trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from quantize.checkpoint import Checkpoint, adapter_error
from quantize.errors import BadCheckpoint
from quantize.foreign_json import read_json_object

_START_OVER = "start from the BF16 or the FP8 repository of the same model"
# Tensors that only these tools write, the most specific first; the names of what they write.
_SIGNS = (
    (re.compile(r"\.lora_[AB]\.|\.lora_embedding_[AB]$|\.lora_magnitude_vector"), "LoRA"),
    (re.compile(r"\.quant_state\.bitsandbytes__|\.absmax$|\.SCB$"), "bitsandbytes"),
    (re.compile(r"\.weight_scale_2$|\.(weight|input)_global_scale$"), "NVFP4"),
    (re.compile(r"\.weight_packed$|\.weight_shape$|\.weight_zero_point$"), "compressed-tensors"),
    (re.compile(r"\.g_idx$"), "GPTQ"),
    (re.compile(r"\.qzeros$|\.qweight$"), "AWQ"),
    (re.compile(r"(^|\.)\w+_blocks$"), "MXFP4"),
    (re.compile(r"\.biases$"), "MLX"),
    (re.compile(r"\.weight_scale$"), "FP8 with a scale for each channel or tensor"),
)
_ANY_SIGN = re.compile("|".join(pattern.pattern for pattern, _ in _SIGNS))
# How the tools are called by `quant_method` in config.json.
_METHODS = {
    "gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "compressed-tensors": "compressed-tensors",
    "auto-round": "AutoRound", "mxfp4": "MXFP4", "quark": "Quark", "hqq": "HQQ", "torchao": "torchao",
}  # fmt: skip


def check_format(checkpoint: Checkpoint) -> None:
    """Raise BadCheckpoint if the weights are an adapter, or in a form that only another tool can read."""
    config = checkpoint.config
    settings = config.get("quantization_config") or config.get("quantization") or _text_settings(config)
    settings = settings if isinstance(settings, Mapping) else {}
    signed = [name for name in checkpoint.tensors if _ANY_SIGN.search(name)]
    sign = next((label for pattern, label in _SIGNS if any(map(pattern.search, signed))), "")
    if sign == "LoRA":
        raise adapter_error(checkpoint.name)
    if sign == "MLX" or "mlx" in checkpoint.formats:
        bits = f" quantized to {settings['bits']} bits" if isinstance(settings.get("bits"), int) else ""
        raise BadCheckpoint(f"this is an MLX checkpoint{bits}, which cannot be read", _START_OVER)
    method = str(settings.get("quant_method", ""))
    if sign:
        raise _quantized_error(_refine(checkpoint, sign, method))
    if not settings or (method == "fp8" and settings.get("weight_block_size")):
        return
    if any(tensor.dtype.startswith("F8_") for tensor in checkpoint.tensors.values()):
        raise _quantized_error("FP8 without weight_block_size" if method == "fp8" else method)
    if all(tensor.dtype in ("BF16", "F16", "F32") for tensor in checkpoint.tensors.values()):
        raise BadCheckpoint(
            f"config.json says that the weights are quantized ({method or 'no quant_method'}), but they are not",
            "if they were merged to 16 bits, remove quantization_config from config.json",
        )
    raise _quantized_error(_METHODS.get(method, method))


def _text_settings(config: Mapping[str, Any]) -> object:
    """The `quantization_config` of the text model, where some releases have it."""
    text = config.get("text_config")
    return text.get("quantization_config") if isinstance(text, Mapping) else None


def _refine(checkpoint: Checkpoint, sign: str, method: str) -> str:
    """The tool's name: as config.json says, or ModelOpt's own file, or else by the tensors."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        data = read_json_object(checkpoint.folder / "hf_quant_config.json")
        return f"{data['quantization']['quant_algo']}, by ModelOpt"
    named = _METHODS.get(method, sign)
    return named if named == sign or sign not in ("NVFP4", "MXFP4") else f"{sign}, {named}"


def _quantized_error(label: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"the checkpoint is already quantized ({label}); BF16, F16, F32 and block-scaled FP8 can be read", _START_OVER
    )
