"""The devices that ggml knows on this machine and, by RPC, on others.

A short-lived child process (`device_probe`) queries them, because loading libllama here would let a driver's failure
end the program. Frozen values go out.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from qwenctl.child_process import child_command
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.llama_process import describe_exit, llama_environment
from qwenctl.machine.memory import Memory, read_memory

_CHILD_SECONDS = 60


@dataclass(frozen=True)
class GgmlDevice:
    """A device in ggml's registry: `kind` is "cpu", "gpu", "igpu" or "accelerator", `backend` is for example "CUDA"."""

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int
    backend: str = ""

    @property
    def has_dedicated_memory(self) -> bool:
        """Whether it has its own memory, separate from the RAM."""
        return self.kind == "gpu" and sys.platform != "darwin"


@dataclass(frozen=True)
class Build:
    """The installed llama.cpp: the backends it was built with, the features of its CPU backend, and its devices.

    `features` are ggml's names, such as "AVX2". `error` says why the child process failed.
    """

    backends: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()
    devices: tuple[GgmlDevice, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class MachineMemory:
    """RAM and devices of this machine."""

    memory: Memory
    devices: tuple[GgmlDevice, ...]

    @property
    def gpus(self) -> tuple[GgmlDevice, ...]:
        """The devices with dedicated memory."""
        return tuple(device for device in self.devices if device.has_dedicated_memory)

    @property
    def gpu_bytes(self) -> int:
        """The memory of all GPUs, in bytes; 0 without a GPU."""
        return sum(device.total_bytes for device in self.gpus)


def read_machine_memory() -> MachineMemory:
    """The current state. Takes a third of a second, longer with a GPU."""
    return MachineMemory(read_memory(), read_devices())


def read_devices(rpc: Sequence[str] = ()) -> tuple[GgmlDevice, ...]:
    """The devices in ggml's registry and of the RPC servers `rpc` (host:port); none if the child process fails."""
    return read_build(rpc).devices


def read_build(rpc: Sequence[str] = ()) -> Build:
    """The installed llama.cpp, its devices, and those of the RPC servers `rpc` (host:port)."""
    try:
        completed = subprocess.run(
            child_command("qwenctl.machine.device_probe", *rpc),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHILD_SECONDS,
            env=llama_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Build(error=str(error))
    try:
        report = json.loads(completed.stdout)
        devices = tuple(GgmlDevice(**entry) for entry in report["devices"])
        return Build(tuple(report["backends"]), frozenset(report["features"]), devices)
    except (ValueError, TypeError, KeyError):
        return Build(error=describe_exit(completed.returncode, completed.stderr.decode("utf-8", "replace")))


_CONNECT_SECONDS = 5.0


def check_servers(endpoints: Sequence[str]) -> None:
    """Raises QwenctlError unless something answers at each of these RPC servers (host:port)."""
    for endpoint in endpoints:
        host, separator, port = endpoint.rpartition(":")
        if not separator or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise QwenctlError(f"'{endpoint}' is not HOST:PORT", "--rpc 127.0.0.1:50052")
        try:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            hint = "`qwenctl worker` must be running there, and its port reachable"
            raise QwenctlError(f"{endpoint} does not answer ({why})", hint, ExitCode.NETWORK) from error
