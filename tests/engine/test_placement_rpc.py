"""A model spread over several devices computes the same logits as in RAM and takes the planned memory of each.

The devices are RPC servers on loopback that use the CPU's kernels, so the logits are identical to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.convert import convert
from quantize.plan import QuantizeOptions
from quantize.plan import make_plan as make_conversion
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine import read_devices
from qwenctl.machine.profile import Device, Machine
from qwenctl.placement.constraints import ALL_EXPERTS, PlacementConstraints
from qwenctl.placement.plan import Plan, plan_deviations
from qwenctl.placement.tensor_inventory import from_gguf
from qwenctl.placement.trial_load import plan_with_dry_load
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU
from tests.support.checkpoints import make
from tests.support.opened_plan import open_with_plan
from tests.support.placed_logits import placed_logits
from tests.support.qwen35_layout import Model
from tests.support.rpc_server import rpc_server

LAYERS = 8
CONSTRAINTS = PlacementConstraints(context=512, threads=1, fit_targets=(0,))
MIB = 1 << 20
# QWENCTL_TEST_SPLITS=all tries every number of layers.
EVERY = os.environ.get("QWENCTL_TEST_SPLITS") == "all"
SPLITS = [*range(LAYERS), ALL_EXPERTS] if EVERY else [0, 3, ALL_EXPERTS]


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture-of-experts model of 64 MB, four fifths of it experts, in BF16, which all kernels compute alike."""
    folder = tmp_path_factory.mktemp("moe")
    checkpoint = make(folder / "checkpoint", Model(layers=LAYERS, experts=16, vision=None), seed=1)
    path = folder / "moe-BF16.gguf"
    convert(make_conversion(checkpoint, path, QuantizeOptions("BF16", vision=False)), threads=1)
    return path


@pytest.fixture(scope="module")
def logits(moe: Path) -> bytes:
    """The logits that the CPU alone computes."""
    return placed_logits(moe, LoadParams(context_tokens=512, threads=1))[0]


@pytest.fixture(scope="module")
def large() -> Iterator[str]:
    with rpc_server(400 * MIB) as endpoint:
        yield endpoint


def machine(*endpoints: str) -> Machine:
    """A machine with these RPC devices and enough RAM for the whole model."""
    found = [device for device in read_devices(endpoints) if device.kind == "gpu"]
    assert len(found) == len(endpoints)
    sizes = [(one.name, one.backend, one.description, one.total_bytes, one.free_bytes) for one in found]
    return Machine(32 << 30, 32 << 30, None, 1, tuple(Device(*size) for size in sizes))


def make_placement_plan(moe: Path, constraints: PlacementConstraints, *endpoints: str) -> Plan:
    return plan_with_dry_load(from_gguf(moe), machine(*endpoints), replace(constraints, rpc=endpoints))


def expert_bytes(plan: Plan) -> dict[str, int]:
    return {memory.name: memory.of("routed experts") for memory in plan.memories}


@pytest.mark.parametrize("layers", SPLITS)
def test_logits_are_the_same_with_experts_in_ram_or_on_a_device(
    moe: Path, logits: bytes, large: str, layers: int
) -> None:
    plan = make_placement_plan(moe, replace(CONSTRAINTS, cpu_experts=layers), large)
    found, memory = placed_logits(moe, plan.settings)
    assert found == logits
    assert plan.exact
    assert plan_deviations(plan, memory) == []
    experts = expert_bytes(plan)
    assert experts[CPU] * (LAYERS - min(layers, LAYERS)) == experts["RPC0"] * min(layers, LAYERS)


@pytest.mark.parametrize("layers", range(LAYERS + 2) if EVERY else [4])
def test_logits_are_the_same_with_whole_layers_on_a_device(moe: Path, logits: bytes, large: str, layers: int) -> None:
    plan = make_placement_plan(moe, replace(CONSTRAINTS, gpu_layers=layers), large)
    found, memory = placed_logits(moe, plan.settings)
    assert (found, plan_deviations(plan, memory)) == (logits, [])


def test_override_places_single_tensors(moe: Path, logits: bytes, large: str) -> None:
    constraints = replace(CONSTRAINTS, overrides=((r"blk\.[02]\.ffn_up_exps", "CPU"), (r"blk\.1\.attn_qkv", "CPU")))
    plan = make_placement_plan(moe, constraints, large)
    found, memory = placed_logits(moe, plan.settings)
    assert (found, plan_deviations(plan, memory)) == (logits, [])
    assert plan.memories[0].of("routed experts", "linear attention") > 0


def test_plan_fills_a_device_within_its_memory(moe: Path, logits: bytes) -> None:
    sizes = []
    for memory in (10, 12, 16, 20, 25, 30, 38, 45, 55, 70) if EVERY else (12, 45):
        with rpc_server(memory * MIB) as endpoint:
            plan = make_placement_plan(moe, CONSTRAINTS, endpoint)
            found, actual = placed_logits(moe, plan.settings)
        assert (found, plan_deviations(plan, actual)) == (logits, [])
        sizes.append(plan.memories[1].n_bytes)
        assert sizes[-1] <= memory * MIB
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize(
    "constraints", [CONSTRAINTS, replace(CONSTRAINTS, split=(1.0, 2.0), cpu_experts=3)], ids=["by memory", "by ratio"]
)
def test_model_is_split_over_two_devices(moe: Path, logits: bytes, constraints: PlacementConstraints) -> None:
    with rpc_server(36 * MIB) as first, rpc_server(40 * MIB) as second:
        plan = make_placement_plan(moe, constraints, first, second)
        found, memory = placed_logits(moe, plan.settings)
    assert (found, plan_deviations(plan, memory)) == (logits, [])
    assert {one.name for one in memory if one.weights} == {CPU, "RPC0", "RPC1"}


def test_deviation_from_the_plan_is_reported(moe: Path, large: str) -> None:
    plan = make_placement_plan(moe, CONSTRAINTS, large)
    _, memory = placed_logits(moe, plan.settings)
    wrong = [replace(one, weights=int(one.weights * 1.1)) if one.name == "RPC0" else one for one in memory]
    [line] = plan_deviations(plan, wrong)
    assert line.startswith("RPC0 holds ")


def test_load_over_its_plan_logs_a_warning(moe: Path, large: str, tmp_path: Path) -> None:
    plan = make_placement_plan(moe, CONSTRAINTS, large)
    ram, device = plan.memories
    others = tuple(part for part in device.parts if part.kind != "routed experts")
    wrong = replace(plan, memories=(ram, replace(device, parts=others)))
    for one, warnings in ((plan, 0), (wrong, 1)):
        open_with_plan(moe, one, CONSTRAINTS, tmp_path, []).engine.close()
        [log] = tmp_path.glob("engine-*.log")
        assert log.read_text().count("warning: RPC0 holds ") == warnings
        log.unlink()


@pytest.mark.parametrize("left", [52 * MIB, 14 * MIB] if EVERY else [30 * MIB])
def test_plan_shrinks_when_another_program_took_memory(moe: Path, logits: bytes, tmp_path: Path, left: int) -> None:
    with rpc_server(400 * MIB, enforced=left) as endpoint:
        notices: list[str] = []
        constraints = replace(CONSTRAINTS, rpc=(endpoint,))
        plan = make_placement_plan(moe, CONSTRAINTS, endpoint)
        with pytest.raises(RuntimeError, match="failed to allocate"):
            placed_logits(moe, plan.settings)
        model = open_with_plan(moe, plan, constraints, tmp_path, notices)
        model.engine.close()
        assert notices
        assert all(
            "RPC0 did not have enough memory for the plan" in line and "MiB less for RPC0" in line for line in notices
        )
        [device] = [one for one in model.loaded.memory if one.name == "RPC0"]
        assert 0 < device.n_bytes <= left


def test_only_the_device_short_of_memory_gets_less(moe: Path, tmp_path: Path) -> None:
    with rpc_server(36 * MIB) as first, rpc_server(400 * MIB, enforced=20 * MIB) as second:
        notices: list[str] = []
        constraints = replace(CONSTRAINTS, rpc=(first, second), split=(1.0, 1.0))
        open_with_plan(
            moe, make_placement_plan(moe, constraints, first, second), constraints, tmp_path, notices
        ).engine.close()
    assert notices
    assert all(line.startswith("RPC1 did not have enough memory for the plan; ") for line in notices)


def test_placement_set_by_hand_is_not_reduced(moe: Path, tmp_path: Path) -> None:
    with rpc_server(400 * MIB, enforced=30 * MIB) as endpoint:
        constraints = replace(CONSTRAINTS, cpu_experts=0, rpc=(endpoint,))
        plan = make_placement_plan(moe, constraints, endpoint)
        with pytest.raises(QwenctlError, match="failed to allocate") as failure:
            open_with_plan(moe, plan, constraints, tmp_path, [])
    assert failure.value.code == ExitCode.NO_MEMORY
