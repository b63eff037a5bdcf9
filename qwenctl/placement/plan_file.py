"""A plan as JSON text, and back: what a file says is checked as closely as options are, before the engine sees it.

A saved plan may come from another machine, and be edited by hand. The engine runs llama.cpp, which aborts on numbers,
types and patterns that it does not expect.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

from quantize.foreign_json import parse_object, read_limited
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.placement.plan import Plan
from qwenctl.protocol.codec import from_builtins
from qwenctl.protocol.load import LoadParams

_VERSION = 1
_MAX_BYTES = 4 << 20  # of a plan: for a large model, 30 KB
MAX_COUNT = (1 << 31) - 1  # llama.cpp's int32_t
MAX_THREADS = 512  # ggml.h: GGML_MAX_N_THREADS
CACHE_TYPES = frozenset(("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"))
_MAX_PATTERN = 1 << 16  # characters; std::regex takes stack for each
_HINT = "qwenctl plan MODEL --json > plan.json"


def to_json(plan: Plan) -> str:
    """The plan as JSON text."""
    return json.dumps({"version": _VERSION, **asdict(plan)}, indent=1)


def read_plan(file: Path) -> Plan:
    """The plan in `file`. Raises OSError, and QwenctlError for what is none, or cannot be loaded."""
    return from_json(read_limited(file, _MAX_BYTES), file.name)


def from_json(text: str | bytes, name: str) -> Plan:
    """The plan in the text of the file `name`. Raises QwenctlError for what is none, or cannot be loaded."""
    try:
        found = parse_object(text, _MAX_BYTES)
        if found["version"] != _VERSION:
            raise ValueError("made by another version")
        plan = from_builtins(Plan, {field.name: found[field.name] for field in fields(Plan)})
        problem = next(_problems(plan), "")
        if problem:
            raise ValueError(problem)
    except (ValueError, TypeError, KeyError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise QwenctlError(f"{name} is not a plan ({why[:80]})", _HINT, ExitCode.BAD_DATA) from error
    return plan


def _problems(plan: Plan) -> Iterator[str]:
    """What is wrong with the values of a plan, whose types are right."""
    yield from _bad_numbers(plan)
    yield from _bad_settings(plan.settings)
    names = [memory.name for memory in plan.memories]
    if not names or len(set(names)) != len(names):
        yield "memories without a name of their own"


def _bad_numbers(value: object, name: str = "plan") -> Iterator[str]:
    """The numbers at any depth that are negative, though nothing but the layers on GPUs may be, or not finite."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _bad_numbers(getattr(value, field.name), field.name)
    elif isinstance(value, tuple):
        for item in value:
            yield from _bad_numbers(item, name)
    elif isinstance(value, int | float) and not (-(name == "gpu_layers") <= value < math.inf and value < 1 << 62):
        yield f"{name}: {value}"


def _bad_settings(settings: LoadParams) -> Iterator[str]:
    """The settings that llama.cpp would abort on."""
    counts = ("context_tokens", "batch_tokens", "micro_batch_tokens", "gpu_layers", "draft_max", "draft_min")
    yield from (f"{name}: {getattr(settings, name)}" for name in counts if getattr(settings, name) > MAX_COUNT)
    yield from (f"{name}: 0" for name in ("batch_tokens", "micro_batch_tokens") if not getattr(settings, name))
    if settings.threads > MAX_THREADS:
        yield f"threads: {settings.threads}"
    for name in ("cache_type_k", "cache_type_v"):
        if getattr(settings, name) not in CACHE_TYPES:
            yield f"{name}: {getattr(settings, name)!r}"
    placement = settings.placement
    if placement.layers and len(placement.layers) != len(placement.devices):
        yield f"layers for {len(placement.layers)} of {len(placement.devices)} devices"
    texts = (*placement.devices, *placement.rpc, *(text for pair in placement.overrides for text in pair))
    if any("\0" in text or not text for text in texts):
        yield "a device or pattern without text"
    for pattern, _ in placement.overrides:
        if not _is_pattern(pattern):
            yield f"the pattern {pattern[:40]!r}"


def _is_pattern(text: str) -> bool:
    """Whether `text` is a regular expression of a size that std::regex can match."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return len(text) <= _MAX_PATTERN
