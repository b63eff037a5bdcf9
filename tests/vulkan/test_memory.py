"""Memory use matches the plan, and a device that refuses is given less. No model computes anything here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.engine.client import Engine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine import read_devices
from qwenctl.machine.bandwidth_cache import device_key, read_speeds
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.plan import Plan, plan_deviations
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.placement import CPU, MemoryUse
from tests.support.opened_plan import open_with_plan
from tests.vulkan.device import (
    ALL_ON_THE_DEVICE,
    CONSTRAINTS,
    EXPERTS_IN_RAM,
    MIB,
    NAME,
    device_memory,
    experts_held,
    most_bytes,
    planned,
)

# llama.cpp's log rounds three buffers to hundredths of a MiB; the driver counts whole pages.
ROUNDING, PAGES = 3 * MIB // 200, 3 * 4096


def load_memory_use(path: Path, plan: Plan, logs: Path) -> dict[str, MemoryUse]:
    """The use of each memory after loading the model as planned."""
    with Engine.start(logs) as engine:
        *_, last = engine.load(path, plan.settings)
    assert isinstance(last, ModelInfo)
    assert plan_deviations(plan, last.memory) == []
    return {one.name: one for one in last.memory}


@pytest.mark.parametrize(
    "constraints",
    [ALL_ON_THE_DEVICE, replace(CONSTRAINTS, cpu_experts=3), EXPERTS_IN_RAM],
    ids=["all on the device", "three layers in RAM", "experts in RAM"],
)
def test_memory_use_matches_the_plan(moe: Path, tmp_path: Path, constraints: PlacementConstraints) -> None:
    with device_memory(1 << 30) as folder:
        plan = planned(moe, constraints)
        memory = load_memory_use(moe, plan, tmp_path)
        most = most_bytes(folder)
    ram, device = plan.memories
    ram_bytes = ram.n_bytes - ram.of("snapshots")
    print(f"\n{NAME}: planned {device.n_bytes:,}, by the log {memory[NAME].n_bytes:,}, by the driver {most:,}")
    print(f"{CPU}: planned {ram_bytes:,}, by the log {memory[CPU].n_bytes:,}, of them mapped {memory[CPU].mapped:,}")
    assert abs(memory[NAME].n_bytes - device.n_bytes) <= ROUNDING
    assert abs(most - device.n_bytes) <= PAGES
    in_ram, on_device = experts_held(plan)
    assert in_ram * (8 - min(constraints.cpu_experts or 0, 8)) == on_device * min(constraints.cpu_experts or 0, 8)


def test_device_bandwidth_is_measured() -> None:
    """It is measured although its kernels can read at most 128 MiB."""
    [device] = [one for one in read_devices() if one.name == NAME]
    speed = read_speeds("vulkan", [device], 1).speeds[device_key(device, 1)]
    print(f"\n{speed}")
    assert speed.bandwidth
    assert speed.copy_rate


def test_plan_fills_a_device_within_its_memory(moe: Path, tmp_path: Path) -> None:
    sizes = []
    for memory in (44 * MIB, 60 * MIB):
        with device_memory(memory) as folder:
            plan = planned(moe, CONSTRAINTS)
            load_memory_use(moe, plan, tmp_path)
            sizes.append(most_bytes(folder))
            print(f"{memory:,}: {plan.memories[1].n_bytes:,} {experts_held(plan)} driver {sizes[-1]:,}")
        assert sizes[-1] <= memory
        assert min(experts_held(plan)) > 0
    assert sizes[0] < sizes[1]


def test_model_is_split_over_two_devices(moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same software device twice, each with its own memory."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    with device_memory(60 * MIB) as folder:
        plan = planned(moe, replace(CONSTRAINTS, split=(1.0, 1.0)))
        memory = load_memory_use(moe, plan, tmp_path)
        assert most_bytes(folder) <= 60 * MIB
    assert {one.name for one in memory.values() if one.weights} == {CPU, NAME, "Vulkan1"}


def test_plan_shrinks_when_another_program_took_memory(moe: Path, tmp_path: Path) -> None:
    left, notices = 40 * MIB, list[str]()
    with device_memory(1 << 30, enforced=left) as folder:
        plan = planned(moe, CONSTRAINTS)
        model = open_with_plan(moe, plan, CONSTRAINTS, tmp_path, notices)
        model.engine.close()
        assert most_bytes(folder) <= left
    assert notices
    assert all(
        re.match(rf"{NAME} did not have enough memory for the plan; .* MiB less for {NAME}", line) for line in notices
    )
    [device] = [one for one in model.loaded.memory if one.name == NAME]
    assert 0 < device.n_bytes <= left


def test_placement_set_by_hand_is_not_reduced(moe: Path, tmp_path: Path) -> None:
    with device_memory(1 << 30, enforced=40 * MIB):
        plan = planned(moe, ALL_ON_THE_DEVICE)
        with pytest.raises(QwenctlError) as failure:
            open_with_plan(moe, plan, ALL_ON_THE_DEVICE, tmp_path, [])
    assert failure.value.code == ExitCode.NO_MEMORY
