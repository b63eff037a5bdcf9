"""Each memory takes what was planned, and a device that refuses is given less. No model computes anything here."""

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
from tests.support.opened_plan import opened
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

# llama.cpp's log has hundredths of a MiB, of three buffers; the driver's are whole pages.
ROUNDING, PAGES = 3 * MIB // 200, 3 * 4096


def loaded(path: Path, plan: Plan, logs: Path) -> dict[str, MemoryUse]:
    """What each memory took when the model was loaded as planned."""
    with Engine.start(logs) as engine:
        *_, last = engine.load(path, plan.settings)
    assert isinstance(last, ModelInfo)
    assert plan_deviations(plan, last.memory) == []
    return {one.name: one for one in last.memory}


@pytest.mark.parametrize("constraints", [ALL_ON_THE_DEVICE, replace(CONSTRAINTS, cpu_experts=3), EXPERTS_IN_RAM])
def test_each_memory_takes_what_was_planned(moe: Path, tmp_path: Path, constraints: PlacementConstraints) -> None:
    with device_memory(1 << 30) as folder:
        plan = planned(moe, constraints)
        memory = loaded(moe, plan, tmp_path)
        most = most_bytes(folder)
    ram, device = plan.memories
    ram_bytes = ram.n_bytes - ram.of("snapshots")
    print(f"\n{NAME}: planned {device.n_bytes:,}, by the log {memory[NAME].n_bytes:,}, by the driver {most:,}")
    print(f"{CPU}: planned {ram_bytes:,}, by the log {memory[CPU].n_bytes:,}, of them mapped {memory[CPU].mapped:,}")
    assert abs(memory[NAME].n_bytes - device.n_bytes) <= ROUNDING
    assert abs(most - device.n_bytes) <= PAGES
    in_ram, on_device = experts_held(plan)
    assert in_ram * (8 - min(constraints.cpu_experts or 0, 8)) == on_device * min(constraints.cpu_experts or 0, 8)


def test_the_speed_of_the_device_is_measured() -> None:
    """Though one of its kernels can read no more than 128 MiB."""
    [device] = [one for one in read_devices() if one.name == NAME]
    speed = read_speeds("vulkan", [device], 1).speeds[device_key(device, 1)]
    print(f"\n{speed}")
    assert speed.bandwidth
    assert speed.copy_rate


def test_a_device_takes_what_it_has_room_for_and_no_more(moe: Path, tmp_path: Path) -> None:
    sizes = []
    for memory in (44 * MIB, 60 * MIB):
        with device_memory(memory) as folder:
            plan = planned(moe, CONSTRAINTS)
            loaded(moe, plan, tmp_path)
            sizes.append(most_bytes(folder))
            print(f"{memory:,}: {plan.memories[1].n_bytes:,} {experts_held(plan)} driver {sizes[-1]:,}")
        assert sizes[-1] <= memory
        assert min(experts_held(plan)) > 0
    assert sizes[0] < sizes[1]


def test_two_devices_hold_it_together(moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same software device twice, each with a memory of its own."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    with device_memory(60 * MIB) as folder:
        plan = planned(moe, replace(CONSTRAINTS, split=(1.0, 1.0)))
        memory = loaded(moe, plan, tmp_path)
        assert most_bytes(folder) <= 60 * MIB
    assert {one.name for one in memory.values() if one.weights} == {CPU, NAME, "Vulkan1"}


def test_memory_that_another_program_took_makes_the_plan_smaller(moe: Path, tmp_path: Path) -> None:
    left, told = 40 * MIB, list[str]()
    with device_memory(1 << 30, enforced=left) as folder:
        plan = planned(moe, CONSTRAINTS)
        model = opened(moe, plan, CONSTRAINTS, tmp_path, told)
        model.engine.close()
        assert most_bytes(folder) <= left
    assert told
    assert all(
        re.match(rf"{NAME} did not have enough memory for the plan; .* MiB less for {NAME}", line) for line in told
    )
    [device] = [one for one in model.loaded.memory if one.name == NAME]
    assert 0 < device.n_bytes <= left


def test_what_was_fixed_by_hand_is_not_taken_back(moe: Path, tmp_path: Path) -> None:
    with device_memory(1 << 30, enforced=40 * MIB):
        plan = planned(moe, ALL_ON_THE_DEVICE)
        with pytest.raises(QwenctlError) as failure:
            opened(moe, plan, ALL_ON_THE_DEVICE, tmp_path, [])
    assert failure.value.code == ExitCode.NO_MEMORY
