"""The software device with simulated memory (`memory_layer.c` explains it), and plans for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from qwenctl.machine import read_devices
from qwenctl.machine.profile import Device, Machine
from qwenctl.placement.constraints import ALL_EXPERTS, NO_DEVICE, PlacementConstraints
from qwenctl.placement.plan import Plan
from qwenctl.placement.tensor_inventory import from_gguf
from qwenctl.placement.trial_load import plan_with_dry_load
from qwenctl.protocol.placement import CPU

NAME = "Vulkan0"
MIB = 1 << 20
PATIENCE = 3000  # seconds for one step that has to compile shaders
CONSTRAINTS = PlacementConstraints(context=2048, threads=1, fit_targets=(0,), snapshot_bytes=64 * MIB)
ON_THE_CPU = replace(CONSTRAINTS, devices=(NO_DEVICE,), fit_targets=())
ALL_ON_THE_DEVICE = replace(CONSTRAINTS, cpu_experts=0)
EXPERTS_IN_RAM = replace(CONSTRAINTS, cpu_experts=ALL_EXPERTS)


@contextmanager
def device_memory(total: int, *, enforced: int | None = None) -> Iterator[Path]:
    """Give each device `total` bytes, of which only `enforced` are available, for processes started inside the context.

    Yields the folder for `most_bytes`.
    """
    with pytest.MonkeyPatch.context() as environment, TemporaryDirectory() as folder:
        environment.setenv("VK_MEMORY_LAYER_TOTAL", str(total))
        environment.setenv("VK_MEMORY_LAYER_ENFORCED", str(total if enforced is None else enforced))
        environment.setenv("VK_MEMORY_LAYER_LOG", folder)
        yield Path(folder)


def most_bytes(folder: Path) -> int:
    """The peak use of a device's memory in bytes over all processes, as the driver counts it."""
    return max((int(file.read_text()) for file in folder.iterdir()), default=0)


def machine() -> Machine:
    """This machine with its software device in its current state, and enough RAM for the whole model."""
    found = [device for device in read_devices() if device.backend == "Vulkan"]
    sizes = [(one.name, one.backend, one.description, one.total_bytes, one.free_bytes) for one in found]
    return Machine(32 << 30, 32 << 30, None, 1, tuple(Device(*size) for size in sizes))


def planned(path: Path, constraints: PlacementConstraints) -> Plan:
    """The plan for a model, with buffer sizes from a dry load."""
    plan = plan_with_dry_load(from_gguf(path), machine(), constraints)
    assert plan.exact
    return plan


def experts_held(plan: Plan) -> tuple[int, int]:
    """The bytes of routed experts in RAM and on the devices."""
    held = {memory.name: memory.of("routed experts") for memory in plan.memories}
    return held[CPU], sum(held.values()) - held[CPU]
