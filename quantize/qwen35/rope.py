"""Read the rotary position embedding of config.json: its base, the dimensions it rotates, and how it is stretched.

The text model's part of config.json comes in, a frozen `Rope` goes out. Only what llama.cpp computes for Qwen3.5 is
read: a kind of stretching that it would leave out makes another model, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantize.errors import BadCheckpoint

_PLAIN = ("default", "mrope", "none", "")  # "mrope": how the configs of Qwen2.5-VL call it
# Values of YaRN that libllama computes for Qwen3.5, which does not read others from a file.
_YARN_FIXED = {"extrapolation_factor": 1.0, "beta_fast": 32.0, "beta_slow": 1.0}


@dataclass(frozen=True)
class Rope:
    """The position embedding: `theta`, `dim` rotated dimensions of a head, and `sections` of M-RoPE in pairs of them.

    `scaling` is "", "linear" or "yarn"; `factor` is 0 without it, and `original_context` (in tokens) without YaRN.
    """

    theta: float
    dim: int
    sections: tuple[int, ...]
    scaling: str = ""
    factor: float = 0.0
    original_context: int = 0


def not_computed(key: str, value: object, computed: str) -> BadCheckpoint:
    """The error for a value of config.json that makes another model than llama.cpp computes, which has `computed`."""
    return BadCheckpoint(
        f"config.json has {key} {value!r}; llama.cpp computes Qwen3.5 with {computed} only",
        "a GGUF file of this model would give other answers: run it with transformers or vLLM",
    )


def parse_rope(text: Mapping[str, Any], head_dim: int) -> Rope:
    """Read the position embedding from the text model's part of config.json.

    Raises ValueError, KeyError or TypeError for invalid values, and BadCheckpoint for those of another model.
    """
    values = _find_values(text)
    theta = float(values.get("rope_theta", text.get("rope_theta", 10_000_000)))
    dim = int(head_dim * float(values.get("partial_rotary_factor", text.get("partial_rotary_factor", 0.25))))
    sections = tuple(int(size) for size in values.get("mrope_section", (11, 11, 10)))
    if not 1 <= dim <= head_dim or len(sections) > 4 or min(sections, default=0) < 0:
        raise ValueError("head_dim, partial_rotary_factor and mrope_section are inconsistent")
    if not (math.isfinite(theta) and theta > 0):
        raise ValueError(f"rope_theta is {theta}")
    sections += (0,) * (4 - len(sections))  # libllama requires four
    scaling = _kind(values)
    if scaling in _PLAIN:
        return Rope(theta, dim, sections)
    if scaling not in ("linear", "yarn"):
        raise not_computed("rope_type", scaling, "default, linear or yarn")
    factor = float(values["factor"])
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"the factor of RoPE is {factor}")
    if scaling == "linear":
        return Rope(theta, dim, sections, scaling, factor)
    _check_yarn(values, factor)
    return Rope(theta, dim, sections, scaling, factor, _original_context(values, text))


def _find_values(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of `rope_parameters`, or of `rope_scaling`, as older releases call it. Raises BadCheckpoint."""
    new, old = text.get("rope_parameters") or {}, text.get("rope_scaling") or {}
    if new and old and (_kind(new), new.get("factor")) != (_kind(old), old.get("factor")):
        raise BadCheckpoint(
            "rope_parameters and rope_scaling in config.json contradict each other", "remove the one that is not meant"
        )
    return {**old, **new}


def _kind(values: Mapping[str, Any]) -> str:
    return str(values.get("rope_type", values.get("type")) or "")


def _original_context(values: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    """The context before YaRN stretches it, in tokens; as in transformers, the model's if it is not given."""
    key = "original_max_position_embeddings"
    context = int(values.get(key) or text.get(key) or text["max_position_embeddings"])
    if not 1 <= context < 2**31:
        raise ValueError(f"{key} is {context}")
    return context


def _check_yarn(values: Mapping[str, Any], factor: float) -> None:
    """Raise BadCheckpoint for values of YaRN that libllama would not use."""
    fixed = {**_YARN_FIXED, **dict.fromkeys(("attention_factor", "attn_factor"), 0.1 * math.log(factor) + 1)}
    for key, value in fixed.items():
        if values.get(key) is not None and not math.isclose(float(values[key]), value, rel_tol=1e-4):
            raise not_computed(key, values[key], f"{value:.4g}")
    for key in ("mscale", "mscale_all_dim"):
        if values.get(key):
            raise not_computed(key, values[key], "no such value")
