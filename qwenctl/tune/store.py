"""The result of a tuning, kept for a machine and a model, and put into the wishes of later loads.

A model is known by the sizes of its files and the first MiB of them, a machine as its speeds are (`machine.speeds`).
What a person asks for himself is never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qwenctl.errors import QwenctlError
from qwenctl.files.atomic import read_object, write_object
from qwenctl.files.paths import tuned_folder
from qwenctl.models.gguf_check import split_files
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.protocol.load import LoadParams

_HEADER_BYTES = 1 << 20
_UNFIXED = PlacementConstraints()
# The fields that a tuning may choose. Threads and micro-batch hold for every load; the others only where everything
# else is asked for as it was when they were measured, but for what lies beside the model: where that takes the room,
# the plan holds.
_ANYWHERE, _ALIKE = ("threads", "micro_batch"), ("cpu_experts", "cache_k", "cache_v")
_BESIDE = (
    "batch", "snapshot_bytes", "sequences", "mtp", "draft", "draft_max", "draft_min", "vision", "vision_bytes",
    "limits",
)  # fmt: skip


@dataclass(frozen=True)
class TuningResult:
    """What a tuning has found: fields of `PlacementConstraints` with their values, none where the plan itself was the
    fastest.

    `gain` is how many times as fast a turn was as with the plan; `alike` the other wishes under which it was measured.
    """

    changes: Mapping[str, Any]
    gain: float
    alike: Mapping[str, Any]
    measured: str


def model_key(path: Path) -> str:
    """What a model is kept by. Raises OSError."""
    digest = hashlib.sha256()
    for file_path in split_files(path):
        with file_path.open("rb") as file:
            digest.update(f"{file_path.stat().st_size} ".encode())
            digest.update(file.read(_HEADER_BYTES))
    return digest.hexdigest()[:16]


def fixed_constraints(constraints: PlacementConstraints) -> dict[str, Any]:
    """What is asked for beside the fields that a tuning may choose, as JSON gives it back."""
    fields = {name: value for name, value in asdict(constraints).items() if name not in (*_ANYWHERE, *_ALIKE, *_BESIDE)}
    return {name: _listed(value) for name, value in fields.items() if value != getattr(_UNFIXED, name)}


def keep(path: Path, tuned: TuningResult) -> Path:
    """Keep a result for the model at `path`; where it lies. Raises QwenctlError, OSError."""
    place = tuned_folder() / f"{model_key(path)}-{_machine()}.json"
    write_object(place, {"model": path.name, **asdict(tuned)})
    return place


def forget(path: Path) -> bool:
    """Remove what is kept for the model at `path` on this machine; whether there was anything. Raises QwenctlError."""
    place = tuned_folder() / f"{model_key(path)}-{_machine()}.json"
    there = place.exists()
    place.unlink(missing_ok=True)
    return there


def find(path: Path) -> TuningResult | None:
    """What is kept for the model at `path` on this machine; nothing where that cannot be told."""
    try:
        folder, key = tuned_folder(), model_key(path)
        if not any(folder.glob(f"{key}-*.json")):  # the usual case, without a look at the machine
            return None
        found = read_object(folder / f"{key}-{_machine()}.json")
        return TuningResult(
            _known(found["changes"]), float(found["gain"]), dict(found["alike"]), str(found["measured"])
        )
    except (OSError, QwenctlError, KeyError, TypeError, ValueError):
        return None


def apply_tuning(constraints: PlacementConstraints, tuned: TuningResult | None) -> PlacementConstraints:
    """`wishes` with what a tuning has found for those that are left open."""
    if tuned is None:
        return constraints
    names = [*_ANYWHERE, *(_ALIKE if fixed_constraints(constraints) == dict(tuned.alike) else ())]
    left_open = [name for name in names if getattr(constraints, name) == getattr(_UNFIXED, name)]
    return replace(constraints, **{name: tuned.changes[name] for name in left_open if name in tuned.changes})


def with_tuned_threads(settings: LoadParams, tuned: TuningResult | None) -> LoadParams:
    """`settings` with the number of threads that a tuning has found, if it is left open."""
    return settings if tuned is None or settings.threads else replace(settings, threads=tuned.changes.get("threads", 0))


def _known(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError for a field that no tuning chooses, or a value of another kind."""
    for name, value in changes.items():
        is_text = name in ("cache_k", "cache_v")
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 30
        if name not in (*_ANYWHERE, *_ALIKE) or not (isinstance(value, str) if is_text else is_count):
            raise ValueError(name)
    return dict(changes)


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple | list) else value


def _machine() -> str:
    from qwenctl.machine.bandwidth_cache import machine_identity
    from qwenctl.machine.cpu import read_cpu
    from qwenctl.machine.memory import read_memory

    return machine_identity(read_cpu(), read_memory())
