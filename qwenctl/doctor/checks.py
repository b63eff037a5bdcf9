"""Inspect the machine, and collect what is wrong with it.

Options for the slow checks come in; a `DoctorReport` goes out. How it is shown is not known here.
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
    """A disk with models or caches: the bytes of its models, and its read speed if that was measured."""

    disk: Disk
    model_bytes: int
    speed: ReadSpeed | None


@dataclass(frozen=True)
class DoctorReport:
    """The state of the machine, and the problems found."""

    machine: MachineReport
    swap: Swap
    disks: tuple[ModelDisk, ...]
    caches: tuple[Cache, ...]
    models: Mapping[str, int]  # bytes by name
    versions: Mapping[str, str]
    check: BackendCheck | None  # of llama.cpp's results; None if it could not be run
    findings: tuple[Finding, ...]


def run_checks(rpc: Sequence[str] = (), *, reads_disks: bool = False, remeasure: bool = False) -> DoctorReport:
    """Run all checks. `reads_disks` also measures how fast models are read from disk.

    `remeasure` measures memory bandwidth and checks the backend even if there are saved results from earlier. Raises
    QwenctlError if an RPC server cannot be reached.
    """
    from qwenctl.hub.local.hf_cache import default_cache_root
    from qwenctl.hub.local.installed import find_installed_models
    from qwenctl.hub.local.registry import registered_roots

    machine, swap = inspect_machine(rpc, remeasure=remeasure), read_swap()
    roots = list(dict.fromkeys([default_cache_root().absolute(), *registered_roots()]))
    models = find_installed_models()
    paths = [path for model in models for path in model.files]
    disks = tuple(_inspect_disks(roots, paths, reads_disks=reads_disks))
    caches = tuple(_inspect_cache(root) for root in roots)
    check, impossible = _run_backend_check(machine, remeasure=remeasure)
    problems = [
        *findings.check_build(machine.build, detect_gpu_backends(), card_names()),
        *impossible,
        *(findings.check_computation(check) if check else ()),
        *findings.check_features(machine.cpu.flags, machine.build.features),
        *_check_models(machine, models),
        *findings.check_swap(swap),
        *(finding for disk in disks if disk.model_bytes for finding in _check_disk(disk, paths)),
        *(finding for cache in caches for finding in findings.check_cache(cache)),
        *_check_own_folders(),
    ]
    sizes = {model.name: model.n_bytes for model in models}
    return DoctorReport(
        machine=machine,
        swap=swap,
        disks=disks,
        caches=caches,
        models=sizes,
        versions=_package_versions(),
        check=check,
        findings=tuple(problems),
    )


def _run_backend_check(machine: MachineReport, *, remeasure: bool) -> tuple[BackendCheck | None, Sequence[Finding]]:
    """Check llama.cpp's results, or return a finding that says why that is impossible.

    Neither if llama.cpp does not start, which `findings.check_build` reports.
    """
    if machine.build.error:
        return None, ()
    try:
        return check_backend(machine.build.devices, recheck=remeasure)[0], ()
    except CheckImpossible as error:
        return None, (Finding("backend", f"llama.cpp could not be checked ({error})", "TMPDIR sets another folder"),)


def _inspect_disks(roots: Sequence[Path], paths: Sequence[Path], *, reads_disks: bool) -> Iterator[ModelDisk]:
    """Yield the disks of caches and models; the largest model file on each is read to measure its speed."""
    files = [(read_disk(path.parent).mount, path) for path in {path.resolve() for path in paths}]
    for disk in read_disks([*roots, *(path.parent for _, path in files)]):
        on_disk = sorted((path.stat().st_size, path) for mount, path in files if mount == disk.mount)
        speed = read_speed(on_disk[-1][1]) if reads_disks and on_disk else None
        yield ModelDisk(disk, sum(size for size, _ in on_disk), speed)


def _check_disk(disk: ModelDisk, paths: Sequence[Path]) -> Iterator[Finding]:
    """Return findings about a disk of models, relative to the largest model file."""
    largest = max((path.stat().st_size for path in paths), default=0)
    return findings.check_disk(disk.disk, disk.speed, largest)


def _check_models(report: MachineReport, models: Sequence[InstalledModel]) -> Iterator[Finding]:
    """Yield findings about models that do not fit into memory with a default context."""
    from qwenctl.hub.local.installed import CHECKPOINT
    from qwenctl.hub.select.fit import PullCandidate, fit_candidate
    from qwenctl.machine import MachineMemory
    from qwenctl.models.context_memory import context_memory_from_file

    machine, fits = MachineMemory(report.memory, report.build.devices), {}
    for model in models:
        if model.quant == CHECKPOINT or model.missing_parts:
            continue
        context = context_memory_from_file(model.path)
        if context is not None:
            fits[model.name] = fit_candidate(PullCandidate(model.quant, model.n_bytes, 0), context, machine, 0)
    return findings.check_models(fits, machine.memory, machine.gpu_bytes)


def _inspect_cache(root: Path) -> Cache:
    from qwenctl.hub.local.stale_downloads import find_stale_downloads

    leftovers = find_stale_downloads(root)
    return Cache(
        root, free_disk(root), len(leftovers), sum(item.n_bytes for item in leftovers), _find_write_error(root)
    )


def _find_write_error(folder: Path) -> str:
    """Return why this process cannot create files in `folder`, or in its nearest existing parent; empty if it can."""
    existing = nearest_existing(folder)
    if not existing.is_dir():
        return "not a folder"
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        return "read-only file system"
    return "" if os.access(existing, os.W_OK | os.X_OK) else "no permission"


def _check_own_folders() -> Iterator[Finding]:
    for folder in (state_folder, cache_folder):
        try:
            folder()
        except QwenctlError as error:
            yield Finding("cache", error.message, error.hint)


def _package_versions() -> dict[str, str]:
    versions = {"qwenctl": __version__, "Python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
