"""A report of a machine becomes what a plan is made for: only devices with a memory of their own."""

from __future__ import annotations

from dataclasses import replace

from qwenctl.machine.bandwidth_cache import MemoryBandwidth
from qwenctl.machine.inspect import to_plan_machine
from tests.support.example_machine import EXAMPLE_MACHINE, GIB, GPU_DEVICE


def test_plan_machine_has_ram_cores_and_dedicated_devices() -> None:
    machine = to_plan_machine(EXAMPLE_MACHINE)
    assert (machine.ram_total, machine.ram_available, machine.ram_bandwidth) == (64 * GIB, 48 * GIB, 60e9)
    assert machine.cores == 8
    [device] = machine.devices
    assert (device.name, device.backend, device.total_bytes) == ("CUDA0", "CUDA", 24 * GIB)
    assert (device.bandwidth, device.copy_rate) == (900e9, 25e9)


def test_bandwidths_of_another_number_of_threads_are_not_used() -> None:
    machine = to_plan_machine(replace(EXAMPLE_MACHINE, threads=4))
    assert machine.ram_bandwidth is None


def test_machine_without_measurements_or_devices_has_unknown_speeds() -> None:
    unmeasured = replace(EXAMPLE_MACHINE, speeds=replace(EXAMPLE_MACHINE.speeds, speeds={}))
    machine = to_plan_machine(unmeasured)
    assert (machine.ram_bandwidth, machine.devices[0].bandwidth, machine.devices[0].copy_rate) == (None, None, None)
    gpu_only = replace(EXAMPLE_MACHINE, build=replace(EXAMPLE_MACHINE.build, devices=(GPU_DEVICE,)))
    assert gpu_only.ram_speed == MemoryBandwidth()
