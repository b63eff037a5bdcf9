"""This machine as a plan needs it: RAM, free cores and devices, with measured bandwidths.

Only the RPC servers whose devices count too come in; a `profile.Machine` goes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.bandwidth_cache import MemoryBandwidth, SavedBandwidths, device_key, machine_identity, read_speeds
from qwenctl.machine.cpu import Cpu, free_cores, read_cpu
from qwenctl.machine.devices import Build, read_build
from qwenctl.machine.memory import Memory, read_memory
from qwenctl.machine.profile import Device as PlanDevice
from qwenctl.machine.profile import Machine as PlanMachine


@dataclass(frozen=True)
class MachineReport:
    """What is known of this machine; `threads` is the number with which the RAM's bandwidth was measured."""

    identity: str
    cpu: Cpu
    memory: Memory
    build: Build
    threads: int
    speeds: SavedBandwidths

    @property
    def ram_speed(self) -> MemoryBandwidth:
        """The bandwidth of the RAM."""
        cpus = (device for device in self.build.devices if device.kind == "cpu")
        return next(
            (self.speeds.speeds.get(device_key(cpu, self.threads), MemoryBandwidth()) for cpu in cpus),
            MemoryBandwidth(),
        )


def inspect_machine(rpc: Sequence[str] = (), *, remeasure: bool = False) -> MachineReport:
    """Inspect this machine, with the devices of the RPC servers `rpc` (host:port).

    The first call measures bandwidths, which takes a second or two, as does `remeasure`. Raises QwenctlError if an RPC
    server cannot be queried.
    """
    cpu, memory, build = read_cpu(), read_memory(), read_build(rpc)
    if build.error and rpc:
        servers = ", ".join(rpc)
        hint = "`qwenctl worker` must be running there and reachable"
        raise QwenctlError(f"no devices of {servers}: {build.error}", hint, ExitCode.NETWORK)
    identity, threads = machine_identity(cpu, memory), free_cores(cpu.usable_cores)
    speeds = read_speeds(identity, build.devices, threads, rpc, remeasure=remeasure)
    return MachineReport(identity, cpu, memory, build, threads, speeds)


def to_plan_machine(report: MachineReport) -> PlanMachine:
    """The same as a plan needs it: only devices with dedicated memory."""
    devices = []
    for device in report.build.devices:
        if device.has_dedicated_memory:
            speed = report.speeds.speeds.get(device_key(device, report.threads), MemoryBandwidth())
            devices.append(
                PlanDevice(
                    device.name, device.backend, device.description, device.total_bytes, device.free_bytes,
                    speed.bandwidth, speed.copy_rate,
                )
            )  # fmt: skip
    memory, bandwidth = report.memory, report.ram_speed.bandwidth
    return PlanMachine(memory.total_bytes, memory.available_bytes, bandwidth, report.threads, tuple(devices))
