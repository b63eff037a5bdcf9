"""GGUF files read through gguf's own reader, and one-line conversions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
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


def rewritten(
    source: Path,
    target: Path,
    keys: Mapping[str, tuple[Any, ...]] | None = None,
    keep: Callable[[str], bool] = lambda _: True,
    extra: Mapping[str, Any] | None = None,
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
) -> Path:
    """Write the GGUF file `source` with other `keys` (value, type, type of elements), and some of its tensors."""
    reader, changed = gguf.GGUFReader(source), dict(keys or {})
    named = reader.fields.get("general.architecture")  # only the first split has it
    writer = gguf.GGUFWriter(target, str(named.contents()) if named else "qwen35moe", endianess=endian)
    for name, one in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changed:
            continue
        writer.add_key_value(name, one.contents(), one.types[0], one.types[-1] if len(one.types) > 1 else None)
    for name, (value, *kinds) in changed.items():
        writer.add_key_value(name, value, *kinds)
    for tensor in reader.tensors:
        if keep(tensor.name):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


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
