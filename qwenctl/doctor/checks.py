"""Everything that is looked at, and what is wrong with it.

Nothing comes in but which of the slower looks are wanted; a `DoctorReport` goes out, which `report` shows.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl import __version__
from qwenctl.backend_check.check import check_backend
from qwenctl.backend_check.child import CheckImpossible
from qwenctl.backend_check.results import BackendCheck
from qwenctl.doctor import findings
from qwenctl.doctor.findings import Cache, Finding, detect_gpu_backends
from qwenctl.errors import QwenctlError
from qwenctl.files.paths import cache_folder, nearest_existing, state_folder
from qwenctl.machine.disks import Disk, ReadSpeed, free_disk, read_disk, read_disks, read_speed
from qwenctl.machine.inspect import MachineReport, inspect_machine
from qwenctl.machine.memory import Swap, read_swap
from qwenctl.machine.nvml import card_names

if TYPE_CHECKING:
    from qwenctl.hub.local.installed import InstalledModel

_PACKAGES = ("llama-cpp-python", "gguf", "huggingface_hub", "hf-xet", "nvidia-ml-py", "numpy")


@dataclass(frozen=True)
class ModelDisk:
    """A disk that holds models: how many bytes of them, and how fast it reads if that was measured."""

    disk: Disk
    model_bytes: int
    speed: ReadSpeed | None


@dataclass(frozen=True)
class DoctorReport:
    """What was found, and what is wrong."""

    survey: MachineReport
    swap: Swap
    holders: tuple[ModelDisk, ...]
    caches: tuple[Cache, ...]
    models: Mapping[str, int]  # bytes by name
    versions: Mapping[str, str]
    check: BackendCheck | None  # of llama.cpp; None where it could not be done
    findings: tuple[Finding, ...]


def run_checks(rpc: Sequence[str] = (), *, reads_disks: bool = False, again: bool = False) -> DoctorReport:
    """Look at everything. `reads_disks` measures how fast models are read.

    `again` measures how fast the memories are and checks the backend, though results of an earlier time are kept.
    Raises QwenctlError if an RPC server cannot be reached.
    """
    from qwenctl.hub.local.hf_cache import default_cache_root
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.hub.local.registry import registered_roots

    found, swap = inspect_machine(rpc, remeasure=again), read_swap()
    roots = list(dict.fromkeys([default_cache_root().absolute(), *registered_roots()]))
    models = find_installed_models()
    paths = [path for model in models for path in model.files]
    holders = tuple(_holders(roots, paths, reads_disks=reads_disks))
    caches = tuple(_cache(root) for root in roots)
    check, impossible = _check(found, again=again)
    wrong = [
        *findings.of_build(found.build, detect_gpu_backends(), card_names()),
        *impossible,
        *(findings.of_check(check) if check else ()),
        *findings.of_features(found.cpu.flags, found.build.features),
        *_too_large(found, models),
        *findings.of_swap(swap),
        *(one for holder in holders if holder.model_bytes for one in _of_holder(holder, paths)),
        *(one for cache in caches for one in findings.of_cache(cache)),
        *_own_folders(),
    ]
    sizes = {model.name: model.n_bytes for model in models}
    return DoctorReport(found, swap, holders, caches, sizes, _versions(), check, tuple(wrong))


def _check(found: MachineReport, *, again: bool) -> tuple[BackendCheck | None, Sequence[Finding]]:
    """The check of llama.cpp, or why there is none; nothing where it does not even start, which is said elsewhere."""
    if found.build.error:
        return None, ()
    try:
        return check_backend(found.build.devices, recheck=again)[0], ()
    except CheckImpossible as error:
        return None, (Finding("backend", f"llama.cpp could not be checked ({error})", "TMPDIR sets another folder"),)


def _holders(roots: Sequence[Path], paths: Sequence[Path], *, reads_disks: bool) -> Iterator[ModelDisk]:
    """The disks of caches and models. The largest file on each is what is read."""
    files = [(read_disk(path.parent).mount, path) for path in {path.resolve() for path in paths}]
    for disk in read_disks([*roots, *(path.parent for _, path in files)]):
        here = sorted((path.stat().st_size, path) for mount, path in files if mount == disk.mount)
        speed = read_speed(here[-1][1]) if reads_disks and here else None
        yield ModelDisk(disk, sum(size for size, _ in here), speed)


def _of_holder(holder: ModelDisk, paths: Sequence[Path]) -> Iterator[Finding]:
    largest = max((path.stat().st_size for path in paths), default=0)
    return findings.of_disk(holder.disk, holder.speed, largest)


def _too_large(found: MachineReport, models: Sequence[InstalledModel]) -> Iterator[Finding]:
    """Models that do not fit into the memory, with a usual context."""
    from qwenctl.hub.local.installed import CHECKPOINT
    from qwenctl.hub.select.fit import PullCandidate, fit_candidate
    from qwenctl.machine import MachineMemory
    from qwenctl.models.context_memory import context_memory_from_file

    machine, fits = MachineMemory(found.memory, found.build.devices), {}
    for model in models:
        if model.quant == CHECKPOINT or model.missing_parts:
            continue
        context = context_memory_from_file(model.path)
        if context is not None:
            fits[model.name] = fit_candidate(PullCandidate(model.quant, model.n_bytes, 0), context, machine, 0)
    return findings.of_models(fits, machine.memory, machine.gpu_bytes)


def _cache(root: Path) -> Cache:
    from qwenctl.hub.local.stale_downloads import find_stale_downloads

    left = find_stale_downloads(root)
    return Cache(root, free_disk(root), len(left), sum(one.n_bytes for one in left), _unwritable(root))


def _unwritable(folder: Path) -> str:
    """What keeps this process from making files in a folder, or in the one in which it would be made."""
    there = nearest_existing(folder)
    if not there.is_dir():
        return "not a folder"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return "read-only file system"
    return "" if os.access(there, os.W_OK | os.X_OK) else "no permission"


def _own_folders() -> Iterator[Finding]:
    for folder in (state_folder, cache_folder):
        try:
            folder()
        except QwenctlError as error:
            yield Finding("cache", error.message, error.hint)


def _versions() -> dict[str, str]:
    found = {"qwenctl": __version__, "Python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
