"""How fast this machine's memories are: measured once, by a child process, and kept for this machine.

Devices come in, a `MemoryBandwidth` for each goes out. What is kept lies in a JSON file of the cache folder whose name
is the machine's identity, for home folders are shared between machines. See `speed_probe` for the method.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from qwenctl.errors import QwenctlError
from qwenctl.files.atomic import read_object, write_object
from qwenctl.files.paths import cache_folder
from qwenctl.machine.cpu import Cpu
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.llama_process import llama_environment
from qwenctl.machine.memory import Memory

_CHILD_SECONDS = 120
# Several times the caches of a usual processor; a large server's last level may hold up to 1 GiB.
_BYTES, _SHARE = 1 << 29, 8
_MOST_KEPT = 64  # the devices of servers come and go


@dataclass(frozen=True)
class MemoryBandwidth:
    """Bytes a second that are read of a device's memory, and copied to it from RAM; None where they are not known."""

    bandwidth: float | None = None
    copy_rate: float | None = None


@dataclass(frozen=True)
class SavedBandwidths:
    """The speeds of a machine by `key_of` a device; where they are kept, and when the last of them was measured."""

    speeds: Mapping[str, MemoryBandwidth]
    path: Path | None
    measured: str


def device_key(device: GgmlDevice, threads: int) -> str:
    """What a device's speed is kept by. The RAM's speed is that of so many threads."""
    threaded = f" {threads} threads" if device.kind == "cpu" else ""
    return f"{device.backend} {device.description} {device.total_bytes}{threaded}"


def machine_identity(cpu: Cpu, memory: Memory) -> str:
    """A name for this machine and its llama.cpp, as far as they make a difference for speeds."""
    gib = memory.total_bytes >> 30
    parts = (platform.node(), cpu.model, cpu.physical_cores, cpu.numa_nodes, gib, version("llama-cpp-python"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def read_speeds(
    identity: str, devices: Sequence[GgmlDevice], threads: int, rpc: Sequence[str] = (), *, again: bool = False
) -> SavedBandwidths:
    """The speeds of these devices: as they are kept, or measured now if one is missing or `again`.

    Measuring takes about a second a device. What cannot be measured has no speed; nothing is raised.
    """
    path = _path(identity)
    kept = _kept(path)
    lacking = [device for device in devices if device_key(device, threads) not in kept.speeds]
    if not lacking and not again:
        return kept
    measured = _measured(devices, threads, rpc)
    if not measured:
        return kept
    others = {key: speed for key, speed in kept.speeds.items() if key not in measured}
    speeds = dict([*others.items(), *measured.items()][-_MOST_KEPT:])
    new = SavedBandwidths(speeds, path, datetime.now(UTC).isoformat(timespec="seconds"))
    if path is not None:
        with suppress(OSError):
            fields = {key: asdict(speed) for key, speed in new.speeds.items()}
            write_object(path, {"measured": new.measured, "speeds": fields})
    return new


def _path(identity: str) -> Path | None:
    try:
        return cache_folder() / f"machine-{identity}.json"
    except QwenctlError:
        return None


def _kept(path: Path | None) -> SavedBandwidths:
    found = read_object(path) if path is not None else {}
    try:
        speeds = {
            key: MemoryBandwidth(_rate(one["bandwidth"]), _rate(one["copy_rate"]))
            for key, one in found["speeds"].items()
        }
        return SavedBandwidths(speeds, path, str(found["measured"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        return SavedBandwidths({}, path, "")


def _rate(value: object) -> float | None:
    """Raises ValueError for what is no speed."""
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"no speed: {value!r}")
    return float(value)


def _measured(devices: Sequence[GgmlDevice], threads: int, rpc: Sequence[str]) -> dict[str, MemoryBandwidth]:
    smallest = min((device.free_bytes for device in devices if device.kind == "cpu"), default=_BYTES * _SHARE)
    n_bytes = min(_BYTES, smallest // _SHARE)
    command = [sys.executable, "-P", "-m", "qwenctl.machine.bandwidth_probe", str(threads), str(n_bytes), *rpc]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHILD_SECONDS,
            env=llama_environment(),
            check=False,
        )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    except OSError:
        return {}
    speeds: dict[str, MemoryBandwidth] = {}
    for line in output.splitlines():
        with suppress(ValueError, TypeError, KeyError):  # half a line
            one = json.loads(line)
            speed = MemoryBandwidth(_rate(one.pop("bandwidth")), _rate(one.pop("copy_rate")))
            speeds[device_key(GgmlDevice(**one), threads)] = speed
    if not speeds:
        return {}
    # One that ended the process is not tried again each time.
    return {**{device_key(device, threads): MemoryBandwidth() for device in devices}, **speeds}
