"""Format a `DoctorReport` as rows for the user and as JSON for programs.

Rows are pairs (label, text); their layout is not known here.
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


def report_rows(report: DoctorReport) -> Iterator[tuple[str, str]]:
    """Yield a row (label, text) for each part of the machine."""
    cpu, memory, build = report.machine.cpu, report.machine.memory, report.machine.build
    nodes = f", {cpu.numa_nodes} NUMA nodes" if cpu.numa_nodes > 1 else ""
    cores = f"{cpu.usable_cores} of {cpu.physical_cores} cores for this process, {report.machine.threads} free now"
    yield "CPU", f"{cpu.model}: {cores}{nodes}"
    threads = f"{report.machine.threads} thread{'s' * (report.machine.threads > 1)}"
    speed = _format_bandwidth(report.machine.ram_speed, f" by {threads}", copies=False)
    yield "RAM", f"{format_memory(memory.total_bytes)}, {format_memory(memory.available_bytes)} available{speed}"
    swap = (
        f"{format_memory(report.swap.used_bytes)} of {format_memory(report.swap.total_bytes)} used"
        if report.swap.total_bytes
        else "none"
    )
    yield "swap", swap
    yield "llama.cpp", f"{', '.join(build.backends) or 'does not run'} ({' '.join(sorted(build.features))})"
    for device in build.devices:
        if device.kind != "cpu":
            text = f"{device.description}: {format_memory(device.total_bytes)}, {format_memory(device.free_bytes)} free"
            yield device.name, text + _format_bandwidth(_device_bandwidth(report, device), "", copies=True)
    for disk in report.disks:
        yield "disk", _format_disk(disk)
    yield "models", f"{len(report.models)}, {format_bytes(sum(report.models.values()))}" if report.models else "none"
    yield "versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())


def backend_check_rows(check: BackendCheck) -> Iterator[tuple[str, ...]]:
    """Yield the check of llama.cpp as rows: one per way of computing, with a column per operation checked."""
    subjects = check.subjects
    yield (f"check of llama.cpp: error (allowed: {BOUND:g})", *(result.title for result in subjects))
    columns = [{case.case: _format_case(case) for case in result.cases} for result in subjects]
    for case in dict.fromkeys(case.case for result in subjects for case in result.cases):
        yield (f"  {case}", *(column.get(case, "") for column in columns))


def _format_case(case: CaseResult) -> str:
    if case.passed:
        return f"{case.nmse:.0e}" if case.nmse else "0"
    return f"FAILED ({case.error or f'{case.nmse:.2g}'})"


def to_json(report: DoctorReport) -> dict[str, Any]:
    """Return the report as JSON values; sizes are in bytes, speeds in bytes/s."""
    machine = report.machine
    cpu = {**asdict(machine.cpu), "flags": sorted(machine.cpu.flags), "free_cores": machine.threads}
    devices = [
        {**asdict(device), **asdict(_device_bandwidth(report, device))}
        for device in machine.build.devices
        if device.kind != "cpu"
    ]
    return {
        "cpu": cpu,
        "ram": {**asdict(machine.memory), "bandwidth": machine.ram_speed.bandwidth},
        "swap": asdict(report.swap),
        "llama_cpp": {"backends": machine.build.backends, "features": sorted(machine.build.features)},
        "devices": devices,
        "disks": [_disk_fields(disk) for disk in report.disks],
        "caches": [{**asdict(cache), "root": str(cache.root)} for cache in report.caches],
        "models": dict(report.models),
        "versions": dict(report.versions),
        "measured": machine.speeds.measured,
        "measured_in": str(machine.speeds.path or ""),
        "check": None if report.check is None else check_json(report.check),
        "findings": [asdict(finding) for finding in report.findings],
    }


def _device_bandwidth(report: DoctorReport, device: GgmlDevice) -> MemoryBandwidth:
    return report.machine.speeds.speeds.get(device_key(device, report.machine.threads), MemoryBandwidth())


def _format_bandwidth(speed: MemoryBandwidth, by: str, *, copies: bool) -> str:
    texts = [f"read at {format_bytes(speed.bandwidth)}/s{by}"] if speed.bandwidth else []
    if copies and speed.copy_rate:
        texts.append(f"copied to at {format_bytes(speed.copy_rate)}/s")
    return "".join(f"; {text}" for text in texts)


def _format_disk(model_disk: ModelDisk) -> str:
    disk = model_disk.disk
    kinds = [disk.file_system, "network" * disk.is_networked, "hard disk" * bool(disk.is_rotational)]
    kind = ", ".join(filter(None, kinds))
    text = f"{disk.mount} ({kind}): {format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free"
    if model_disk.model_bytes:
        text += f", {format_bytes(model_disk.model_bytes)} of models"
    return text + (f"; read at {format_bytes(model_disk.speed.bytes_per_second)}/s" if model_disk.speed else "")


def _disk_fields(model_disk: ModelDisk) -> dict[str, Any]:
    disk, speed = model_disk.disk, asdict(model_disk.speed) if model_disk.speed else None
    return {**asdict(disk), "mount": str(disk.mount), "model_bytes": model_disk.model_bytes, "read_speed": speed}
