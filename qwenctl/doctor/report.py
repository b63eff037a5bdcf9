"""An examination as rows for a person and as JSON for a program.

Rows are pairs of a label and a text; how they are laid out is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from quantize.formatting import format_bytes, format_memory
from qwenctl.backend_check.results import BOUND, BackendCheck, CaseResult
from qwenctl.backend_check.results import as_json as check_json
from qwenctl.doctor.checks import DoctorReport, ModelDisk
from qwenctl.machine.bandwidth_cache import MemoryBandwidth, device_key
from qwenctl.machine.devices import GgmlDevice


def rows(found: DoctorReport) -> Iterator[tuple[str, str]]:
    """What was found, one row a thing."""
    cpu, memory, build = found.survey.cpu, found.survey.memory, found.survey.build
    nodes = f", {cpu.numa_nodes} NUMA nodes" if cpu.numa_nodes > 1 else ""
    cores = f"{cpu.usable_cores} of {cpu.physical_cores} cores for this process, {found.survey.threads} free now"
    yield "CPU", f"{cpu.model}: {cores}{nodes}"
    threads = f"{found.survey.threads} thread{'s' * (found.survey.threads > 1)}"
    speed = _speed_text(found.survey.ram_speed, f" by {threads}", copies=False)
    yield "RAM", f"{format_memory(memory.total_bytes)}, {format_memory(memory.available_bytes)} available{speed}"
    swap = (
        f"{format_memory(found.swap.used_bytes)} of {format_memory(found.swap.total_bytes)} used"
        if found.swap.total_bytes
        else "none"
    )
    yield "swap", swap
    yield "llama.cpp", f"{', '.join(build.backends) or 'does not run'} ({' '.join(sorted(build.features))})"
    for device in build.devices:
        if device.kind != "cpu":
            text = f"{device.description}: {format_memory(device.total_bytes)}, {format_memory(device.free_bytes)} free"
            yield device.name, text + _speed_text(_speed(found, device), "", copies=True)
    for holder in found.holders:
        yield "disk", _disk_text(holder)
    yield "models", f"{len(found.models)}, {format_bytes(sum(found.models.values()))}" if found.models else "none"
    yield "versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())


def check_table(check: BackendCheck) -> Iterator[tuple[str, ...]]:
    """The check of llama.cpp: a row for each way of computing, a column for each thing that was checked."""
    subjects = check.subjects
    yield (f"check of llama.cpp: error (allowed: {BOUND:g})", *(result.title for result in subjects))
    found = [{case.case: _case_text(case) for case in result.cases} for result in subjects]
    for case in dict.fromkeys(case.case for result in subjects for case in result.cases):
        yield (f"  {case}", *(one.get(case, "") for one in found))


def _case_text(case: CaseResult) -> str:
    if case.passed:
        return f"{case.nmse:.0e}" if case.nmse else "0"
    return f"FAILED ({case.error or f'{case.nmse:.2g}'})"


def as_json(found: DoctorReport) -> dict[str, Any]:
    """Everything, with bytes and bytes a second as numbers."""
    surveyed = found.survey
    cpu = {**asdict(surveyed.cpu), "flags": sorted(surveyed.cpu.flags), "free_cores": surveyed.threads}
    devices = [
        {**asdict(device), **asdict(_speed(found, device))} for device in surveyed.build.devices if device.kind != "cpu"
    ]
    return {
        "cpu": cpu,
        "ram": {**asdict(surveyed.memory), "bandwidth": surveyed.ram_speed.bandwidth},
        "swap": asdict(found.swap),
        "llama_cpp": {"backends": surveyed.build.backends, "features": sorted(surveyed.build.features)},
        "devices": devices,
        "disks": [_disk_fields(holder) for holder in found.holders],
        "caches": [{**asdict(cache), "root": str(cache.root)} for cache in found.caches],
        "models": dict(found.models),
        "versions": dict(found.versions),
        "measured": surveyed.speeds.measured,
        "measured_in": str(surveyed.speeds.path or ""),
        "check": None if found.check is None else check_json(found.check),
        "findings": [asdict(finding) for finding in found.findings],
    }


def _speed(found: DoctorReport, device: GgmlDevice) -> MemoryBandwidth:
    return found.survey.speeds.speeds.get(device_key(device, found.survey.threads), MemoryBandwidth())


def _speed_text(speed: MemoryBandwidth, by: str, *, copies: bool) -> str:
    texts = [f"read at {format_bytes(speed.bandwidth)}/s{by}"] if speed.bandwidth else []
    if copies and speed.copy_rate:
        texts.append(f"copied to at {format_bytes(speed.copy_rate)}/s")
    return "".join(f"; {text}" for text in texts)


def _disk_text(holder: ModelDisk) -> str:
    disk = holder.disk
    kinds = [disk.file_system, "networked" * disk.is_networked, "rotating" * bool(disk.is_rotational)]
    kind = ", ".join(filter(None, kinds))
    text = f"{disk.mount} ({kind}): {format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free"
    if holder.model_bytes:
        text += f", {format_bytes(holder.model_bytes)} of models"
    return text + (f"; read at {format_bytes(holder.speed.bytes_per_second)}/s" if holder.speed else "")


def _disk_fields(holder: ModelDisk) -> dict[str, Any]:
    speed = asdict(holder.speed) if holder.speed else None
    return {
        **asdict(holder.disk), "mount": str(holder.disk.mount), "model_bytes": holder.model_bytes, "read_speed": speed
    }  # fmt: skip
