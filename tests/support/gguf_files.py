"""GGUF files read through gguf's own reader, and one-line conversions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf

from quantize.convert import convert
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan


def converted(
    source: Path, output: Path, type_name: str = "Q8_0", *, threads: int = 2, **options: Any
) -> ConversionPlan:
    """Convert the checkpoint `source` to `output`; returns the plan."""
    plan = make_plan(source, output, QuantizeOptions(type_name, **options))
    convert(plan, threads)
    return plan


def tensors(path: Path) -> dict[str, list[Any]]:
    """The type, shape in GGUF order and sha256 of the data of each tensor, by name."""
    return {
        tensor.name: [
            tensor.tensor_type.name,
            [int(size) for size in tensor.shape],
            hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        ]
        for tensor in gguf.GGUFReader(path).tensors
    }


def metadata(path: Path) -> dict[str, list[Any]]:
    """The GGUF types and value of each key; arrays longer than 64 are replaced by the sha256 of their JSON."""
    fields = gguf.GGUFReader(path).fields
    return {
        name: [[kind.name for kind in field.types], _short(field.contents())]
        for name, field in fields.items()
        if not name.startswith("GGUF.")
    }


def _short(value: Any) -> Any:
    if isinstance(value, list) and len(value) > 64:
        return f"sha256 of json: {hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()}"
    return value
