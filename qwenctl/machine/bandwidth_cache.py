"""The bandwidths of this machine's memories: measured once, by a child process, and cached.

Devices come in, a `MemoryBandwidth` for each goes out. The cache is a JSON file in the cache folder, named after the
machine's identity, because home folders can be shared between machines. See `bandwidth_probe` for the method.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from qwenctl.child_process import child_command
from qwenctl.errors import QwenctlError
from qwenctl.files.atomic import read_object, write_object
from qwenctl.files.paths import cache_folder
from qwenctl.machine.cpu import Cpu
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.llama_process import llama_environment
from qwenctl.machine.memory import Memory

_CHILD_SECONDS = 120
# Bytes to read per measurement, and the share of the free RAM they may take. This is several times the caches of most
# CPUs, though a large server's last level may hold up to 1 GiB.
_READ_BYTES, _RAM_SHARE = 1 << 29, 8
_MAX_CACHED = 64  # RPC devices come and go


@dataclass(frozen=True)
class MemoryBandwidth:
    """Bytes/s that can be read from a device's memory and copied to it from RAM; None if unknown."""

    bandwidth: float | None = None
    copy_rate: float | None = None


@dataclass(frozen=True)
class SavedBandwidths:
    """The bandwidths of a machine by `device_key`, their cache file, and the time of the last measurement."""

    speeds: Mapping[str, MemoryBandwidth]
    path: Path | None
    measured: str


def device_key(device: GgmlDevice, threads: int) -> str:
    """The key under which a device's bandwidth is cached; for the RAM it includes the number of threads."""
    threaded = f" {threads} threads" if device.kind == "cpu" else ""
    return f"{device.backend} {device.description} {device.total_bytes}{threaded}"


def machine_identity(cpu: Cpu, memory: Memory) -> str:
    """A name for this machine and its llama.cpp, as far as they affect bandwidths."""
    gib = memory.total_bytes >> 30
    parts = (platform.node(), cpu.model, cpu.physical_cores, cpu.numa_nodes, gib, version("llama-cpp-python"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def read_speeds(
    identity: str, devices: Sequence[GgmlDevice], threads: int, rpc: Sequence[str] = (), *, remeasure: bool = False
) -> SavedBandwidths:
    """The bandwidths of these devices: cached, or measured now if one is missing or with `remeasure`.

    Measuring takes about a second per device. What cannot be measured has no bandwidth; nothing is raised.
    """
    path = _path(identity)
    cached = _read_cache(path)
    missing = [device for device in devices if device_key(device, threads) not in cached.speeds]
    if not missing and not remeasure:
        return cached
    measured = _measure(devices, threads, rpc)
    if not measured:
        return cached
    unchanged = {key: speed for key, speed in cached.speeds.items() if key not in measured}
    speeds = dict([*unchanged.items(), *measured.items()][-_MAX_CACHED:])
    updated = SavedBandwidths(speeds, path, datetime.now(UTC).isoformat(timespec="seconds"))
    if path is not None:
        with suppress(OSError):
            fields = {key: asdict(speed) for key, speed in updated.speeds.items()}
            write_object(path, {"measured": updated.measured, "speeds": fields})
    return updated


def _path(identity: str) -> Path | None:
    try:
        return cache_folder() / f"machine-{identity}.json"
    except QwenctlError:
        return None


def _read_cache(path: Path | None) -> SavedBandwidths:
    fields = read_object(path) if path is not None else {}
    try:
        speeds = {
            key: MemoryBandwidth(_rate(entry["bandwidth"]), _rate(entry["copy_rate"]))
            for key, entry in fields["speeds"].items()
        }
        return SavedBandwidths(speeds, path, str(fields["measured"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        return SavedBandwidths({}, path, "")


def _rate(value: object) -> float | None:
    """A rate from JSON. Raises ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"no speed: {value!r}")
    return float(value)


def _measure(devices: Sequence[GgmlDevice], threads: int, rpc: Sequence[str]) -> dict[str, MemoryBandwidth]:
    free_ram = min((device.free_bytes for device in devices if device.kind == "cpu"), default=_READ_BYTES * _RAM_SHARE)
    n_bytes = min(_READ_BYTES, free_ram // _RAM_SHARE)
    command = child_command("qwenctl.machine.bandwidth_probe", str(threads), str(n_bytes), *rpc)
    try:
        completed = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHILD_SECONDS,
            env=llama_environment(),
            check=False,
        )
        output = completed.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    except OSError:
        return {}
    speeds: dict[str, MemoryBandwidth] = {}
    for line in output.splitlines():
        with suppress(ValueError, TypeError, KeyError):  # a line cut off by a crash
            entry = json.loads(line)
            speed = MemoryBandwidth(_rate(entry.pop("bandwidth")), _rate(entry.pop("copy_rate")))
            speeds[device_key(GgmlDevice(**entry), threads)] = speed
    if not speeds:
        return {}
    # Devices without a result get an empty one, so that a device that crashes the process is not tried again each time.
    return {**{device_key(device, threads): MemoryBandwidth() for device in devices}, **speeds}
