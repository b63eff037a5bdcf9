"""Save the result of a tuning for a machine and a model, and apply it to the constraints of later loads.

A model is identified by the sizes and the first MiB of its files, a machine as in `machine.bandwidth_cache`. What the
user has fixed is never changed.
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
from qwenctl.placement.plan_file import CACHE_TYPES, MAX_COUNT, MAX_THREADS
from qwenctl.protocol.load import LoadParams

_HEADER_BYTES = 1 << 20
_DEFAULTS = PlacementConstraints()
# The fields that a tuning may choose. Threads and micro-batch apply to every load; the others only if all other
# constraints are those under which they were measured, except for what is loaded next to the model: if that leaves too
# little memory, the plan decides.
_UNCONDITIONAL, _CONDITIONAL = ("threads", "micro_batch"), ("cpu_experts", "cache_k", "cache_v")
_COUNTS = {"threads": (1, MAX_THREADS), "micro_batch": (1, MAX_COUNT), "cpu_experts": (0, MAX_COUNT)}
_IRRELEVANT = (
    "batch", "snapshot_bytes", "sequences", "mtp", "draft", "draft_max", "draft_min", "vision_bytes", "limits",
)  # fmt: skip


@dataclass(frozen=True)
class TuningResult:
    """The result of a tuning: new values for fields of `PlacementConstraints`.

    `gain` is the speed of a turn relative to the plan; `alike` has the other constraints under which it was measured,
    and `measured` the time of that (ISO 8601).
    """

    changes: Mapping[str, Any]
    gain: float
    alike: Mapping[str, Any]
    measured: str


def model_key(path: Path) -> str:
    """Return the key of the model at `path`: a hash of the sizes and headers of its files. Raises OSError."""
    digest = hashlib.sha256()
    for file_path in split_files(path):
        with file_path.open("rb") as file:
            digest.update(f"{file_path.stat().st_size} ".encode())
            digest.update(file.read(_HEADER_BYTES))
    return digest.hexdigest()[:16]


def fixed_constraints(constraints: PlacementConstraints) -> dict[str, Any]:
    """Return the constraints that differ from the defaults, apart from tunable and irrelevant ones, as JSON values."""
    fields = {
        name: value
        for name, value in asdict(constraints).items()
        if name not in (*_UNCONDITIONAL, *_CONDITIONAL, *_IRRELEVANT)
    }
    return {name: _to_lists(value) for name, value in fields.items() if value != getattr(_DEFAULTS, name)}


def save_tuning(path: Path, tuned: TuningResult) -> Path:
    """Save a result for the model at `path`; return the path of its file. Raises QwenctlError, OSError."""
    file = tuned_folder() / f"{model_key(path)}-{_machine_key()}.json"
    write_object(file, {"model": path.name, **asdict(tuned)})
    return file


def delete_tuning(path: Path) -> bool:
    """Delete the result for the model at `path` on this machine; return whether there was one.

    Raises QwenctlError, OSError.
    """
    file = tuned_folder() / f"{model_key(path)}-{_machine_key()}.json"
    exists = file.exists()
    file.unlink(missing_ok=True)
    return exists


def load_tuning(path: Path) -> TuningResult | None:
    """Return the result for the model at `path` on this machine; None if there is none that can be read."""
    try:
        folder, key = tuned_folder(), model_key(path)
        if not any(folder.glob(f"{key}-*.json")):  # the usual case: skip identifying the machine
            return None
        fields = read_object(folder / f"{key}-{_machine_key()}.json")
        return TuningResult(
            _check_changes(fields["changes"]), float(fields["gain"]), dict(fields["alike"]), str(fields["measured"])
        )
    except (OSError, QwenctlError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def apply_tuning(constraints: PlacementConstraints, tuned: TuningResult | None) -> PlacementConstraints:
    """Return `constraints` with tuned values for fields that the user left open; unchanged if `tuned` is None."""
    if tuned is None:
        return constraints
    names = [*_UNCONDITIONAL, *(_CONDITIONAL if fixed_constraints(constraints) == dict(tuned.alike) else ())]
    left_open = [name for name in names if getattr(constraints, name) == getattr(_DEFAULTS, name)]
    return replace(constraints, **{name: tuned.changes[name] for name in left_open if name in tuned.changes})


def with_tuned_threads(settings: LoadParams, tuned: TuningResult | None) -> LoadParams:
    """Return `settings` with the tuned number of threads, unless they fix a number."""
    return settings if tuned is None or settings.threads else replace(settings, threads=tuned.changes.get("threads", 0))


def _check_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `changes` as a dict. Raises ValueError for a field that is not tunable, or a value no option takes."""
    for name, value in changes.items():
        if name in ("cache_k", "cache_v"):
            is_valid = isinstance(value, str) and value in CACHE_TYPES
        else:
            lowest, highest = _COUNTS.get(name, (0, -1))
            is_valid = type(value) is int and lowest <= value <= highest
        if not is_valid:
            raise ValueError(name)
    return dict(changes)


def _to_lists(value: Any) -> Any:
    return [_to_lists(item) for item in value] if isinstance(value, tuple | list) else value


def _machine_key() -> str:
    from qwenctl.machine.bandwidth_cache import machine_identity
    from qwenctl.machine.cpu import read_cpu
    from qwenctl.machine.memory import read_memory

    return machine_identity(read_cpu(), read_memory())
