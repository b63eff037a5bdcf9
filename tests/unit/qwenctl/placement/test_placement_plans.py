"""Plans for the published models on hypothetical machines: they fit, are fast, and never slower with more memory.

The models are checkpoints of the published shapes without weights, with the types that quantization would give them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from quantize.formatting import parse_bytes
from quantize.plan import QuantizeOptions
from quantize.plan import make_plan as make_conversion
from qwenctl.commands.options.common import parse_sizes
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.profile import GIB, Machine, machine_from_sizes
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.context_budget import ContextParams
from qwenctl.placement.forecast import token_seconds
from qwenctl.placement.layer_split import PrefixSums, expert_capacity, prefix_sums
from qwenctl.placement.plan import Plan
from qwenctl.placement.plan_file import from_json, to_json
from qwenctl.placement.planner import make_plan
from qwenctl.placement.problem import build_problem
from qwenctl.placement.tensor_inventory import TensorInventory, from_checkpoint, from_gguf
from qwenctl.protocol.codec import from_builtins
from qwenctl.protocol.placement import CPU
from tests.support.checkpoints import make_sparse
from tests.support.qwen35_layout import PUBLISHED

MODELS, TYPES = ("397B", "122B", "35B"), ("BF16", "Q8_0", "Q4_K_M", "Q2_K")
GPUS = ("", "16G", "24G", "32G", "96G", "24G,24G")
RAMS = ("64G", "128G", "256G", "768G")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders whose weight files are sparse."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: make_sparse(folder / name, PUBLISHED[name]) for name in (*MODELS, "27B", "4B")}


@cache
def inventory(folder: Path, type_name: str) -> TensorInventory:
    return from_checkpoint(folder, QuantizeOptions(type_name))


def described(gpus: str, ram: str) -> Machine:
    """The machine with these memory sizes, in the notation of the command line."""
    return machine_from_sizes(parse_sizes()(gpus) or (), parse_bytes(ram))


def planned(
    model: TensorInventory, gpus: str, ram: str, constraints: PlacementConstraints | None = None
) -> Plan | QwenctlError:
    try:
        return make_plan(model, described(gpus, ram), constraints or PlacementConstraints())
    except QwenctlError as error:
        return error


@pytest.mark.parametrize("model", ["397B"])
def test_inventory_of_gguf_equals_inventory_of_checkpoint(
    checkpoints: dict[str, Path], model: str, tmp_path: Path
) -> None:
    [file] = make_conversion(
        checkpoints[model], tmp_path / "x.gguf", QuantizeOptions("Q4_K_M", vision=False)
    ).text_files
    with file.path.open("wb") as header_only:
        header_only.write(file.header)
        header_only.truncate(file.n_bytes)
    found, wanted = from_gguf(file.path), inventory(checkpoints[model], "Q4_K_M")
    assert set(found.tensors) == set(wanted.tensors)
    assert found.shape == wanted.shape


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("model", MODELS)
def test_every_plan_fits_or_reports_missing_memory(checkpoints: dict[str, Path], model: str, type_name: str) -> None:
    whole = inventory(checkpoints[model], type_name)
    for gpus in GPUS:
        for ram in RAMS:
            plan = planned(whole, gpus, ram)
            if isinstance(plan, QwenctlError):
                assert plan.code == ExitCode.NO_MEMORY
                assert "short)" in plan.message
                assert "--paging" in plan.hint
                held = sum(device.total_bytes for device in described(gpus, ram).devices)
                assert whole.n_bytes + 4 * GIB > described(gpus, ram).ram_available + 0.8 * held
            else:
                assert all(memory.n_bytes <= memory.free_bytes for memory in plan.memories)
                unloaded = sum(one.n_bytes for one in whole.tensors if one.layer == whole.shape.layers)
                weights = sum(part.n_bytes for memory in plan.memories for part in memory.parts)
                assert weights > whole.n_bytes - unloaded


@pytest.mark.parametrize(
    ("model", "type_name"), [("397B", "Q4_K_M"), ("397B", "Q2_K"), ("122B", "Q8_0"), ("35B", "BF16")]
)
def test_plan_with_more_memory_is_never_slower(checkpoints: dict[str, Path], model: str, type_name: str) -> None:
    whole = inventory(checkpoints[model], type_name)
    ladders = [[(f"{size}G", "768G") for size in (4, 6, 8, 10, 12, 14, 15)]]
    ladders.append([(f"{size}G", "768G") for size in (16, 18, 20, 22)])
    ladders.append([(f"{size}G", "768G") for size in (24, 26, 28, 30)])
    ladders.append([(f"{size}G", "768G") for size in (32, 40, 48, 64, 80, 96, 128, 192, 256, 512, 1024)])
    ladders.append([(f"24G,{size}G", "768G") for size in (8, 12, 16, 20, 24, 32, 48)])
    ladders.append([("24G", ram) for ram in RAMS])
    ladders.append([("", "768G"), ("16G", "768G"), ("24G", "768G"), ("24G,24G", "768G"), ("24G,24G,24G", "768G")])
    for ladder in ladders:
        plans = [planned(whole, gpus, ram) for gpus, ram in ladder]
        speeds = [0.0 if isinstance(plan, QwenctlError) else plan.forecast.decode for plan in plans]
        assert all(slower <= faster * (1 + 1e-9) for slower, faster in pairwise(speeds)), (ladder, speeds)


@pytest.mark.parametrize("gpus", ["12G", "16G", "24G", "96G", "24G,24G", "24G,12G", "12G,24G", "8G,16G,8G"])
@pytest.mark.parametrize(("model", "type_name"), [("397B", "Q4_K_M"), ("122B", "Q2_K"), ("35B", "Q8_0")])
def test_plan_is_as_fast_as_best_layer_split(
    checkpoints: dict[str, Path], model: str, type_name: str, gpus: str
) -> None:
    whole = inventory(checkpoints[model], type_name)
    plan = planned(whole, gpus, "768G")
    assert isinstance(plan, Plan)
    settings = plan.settings
    context = ContextParams(settings.context_tokens, 1, "f16", "f16", settings.micro_batch_tokens)
    sums = prefix_sums(build_problem(whole, described(gpus, "768G"), PlacementConstraints(), context, {}))
    assert 1 / plan.forecast.decode <= 1.001 * fastest_division(sums)


def fastest_division(sums: PrefixSums) -> float:
    """The fewest seconds per token over all splits of layers between devices, and of whole layers of experts between
    each device and RAM; experts in RAM belong to the first or the last layers of a device.
    """
    rows, problem = len(sums.problem.layer_slots), sums.problem
    devices, best = len(problem.devices), float("inf")
    for start in range(rows + 1) if devices < 3 else [0]:
        for counts in partitions(rows - start, devices):
            found = expert_capacity(sums, counts, start)
            if found is not None:
                reads, at = {CPU: sums.read[start]}, start
                fraction = problem.inventory.shape.experts_used / problem.inventory.shape.experts
                for device, count, room in zip(problem.devices, counts, found[0], strict=True):
                    held = most_layers(sums, at, at + count, room)
                    reads[device.name] = sums.read[at + count] - sums.read[at] + held * fraction
                    reads[CPU] += (sums.experts[at + count] - sums.experts[at] - held) * fraction
                    at += count
                reads[CPU] += sums.experts[start] * fraction
                best = min(best, token_seconds(problem.machine, reads, rows - start))
    return best


def partitions(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (count,)
        return
    for first in range(count + 1):
        yield from ((first, *rest) for rest in partitions(count - first, parts - 1))


def most_layers(sums: PrefixSums, begin: int, end: int, room: int) -> int:
    """The most bytes of experts that fit into `room`, in whole layers from either end of the range."""
    last = [sums.experts[end] - sums.experts[at] for at in range(begin, end + 1)]
    first = [sums.experts[at] - sums.experts[begin] for at in range(begin, end + 1)]
    return max(n_bytes for n_bytes in (*last, *first) if n_bytes <= room)


def test_plan_puts_tensors_read_for_every_token_on_gpu_before_experts(checkpoints: dict[str, Path]) -> None:
    plan = planned(inventory(checkpoints["397B"], "Q4_K_M"), "24G", "256G")
    assert isinstance(plan, Plan)
    ram, gpu = plan.memories
    assert {part.kind for part in ram.parts} == {"embeddings", "routed experts", "buffers", "snapshots"}
    assert gpu.of("KV cache") == 32_768 * 30_720
    assert gpu.of("state") == 195_379_200
    assert plan.forecast.limit == "RAM"
    assert plan.settings.micro_batch_tokens == 2048
    assert plan.settings.load_mode == "none"


def test_plan_with_mtp_lists_experts_of_its_own_layer(checkpoints: dict[str, Path]) -> None:
    whole = inventory(checkpoints["397B"], "Q4_K_M")
    without, wanted = (
        planned(whole, "24G", "512G"),
        planned(whole, "24G", "512G", PlacementConstraints(mtp=True, cpu_experts=60)),
    )
    assert isinstance(without, Plan)
    assert isinstance(wanted, Plan)
    assert without.memories[0].of("MTP") == without.memories[1].of("MTP") == 0
    assert [part.layers for memory in wanted.memories for part in memory.parts if part.layers] == ["0-59", "60"]


def test_plan_with_vision_tower_has_fewer_experts_on_gpu(checkpoints: dict[str, Path]) -> None:
    constraints = PlacementConstraints(vision_bytes=912_020_960)
    whole = inventory(checkpoints["397B"], "Q4_K_M")
    without, seeing = planned(whole, "24G", "512G"), planned(whole, "24G", "512G", constraints)
    assert isinstance(without, Plan)
    assert isinstance(seeing, Plan)
    assert seeing.memories[1].of("vision") == int(1.35 * 912_020_960)
    assert seeing.memories[1].of("routed experts") < without.memories[1].of("routed experts")
    assert seeing.memories[1].n_bytes <= seeing.memories[1].free_bytes


def test_dense_model_is_split_by_layers(checkpoints: dict[str, Path]) -> None:
    plan = planned(inventory(checkpoints["27B"], "Q8_0"), "24G", "64G")
    assert isinstance(plan, Plan)
    assert 0 < plan.settings.gpu_layers < 66
    assert plan.settings.placement.overrides == ()
    larger = planned(inventory(checkpoints["27B"], "Q8_0"), "48G", "64G")
    assert isinstance(larger, Plan)
    assert larger.settings.gpu_layers == 66


def test_tied_embeddings_are_placed_in_ram_and_on_gpu(checkpoints: dict[str, Path]) -> None:
    plan = planned(inventory(checkpoints["4B"], "Q8_0"), "24G", "64G")
    assert isinstance(plan, Plan)
    ram, gpu = plan.memories
    assert ram.of("embeddings") == gpu.of("embeddings") == 248_320 * 2560 * 34 // 32


def test_plan_with_paging_reads_from_disk_and_is_slower(checkpoints: dict[str, Path]) -> None:
    whole = inventory(checkpoints["397B"], "Q4_K_M")
    paged, fitting = planned(whole, "24G", "128G", PlacementConstraints(paging=True)), planned(whole, "24G", "256G")
    assert isinstance(paged, Plan)
    assert isinstance(fitting, Plan)
    assert paged.forecast.paged_bytes > 85 * GIB
    assert paged.forecast.decode < fitting.forecast.decode / 2
    assert paged.forecast.limit == "disk"
    assert paged.settings.load_mode == "mmap"
    assert any("read from disk" in reason for reason in paged.reasons)


def test_plan_and_machine_round_trip_through_json(checkpoints: dict[str, Path]) -> None:
    plan = planned(inventory(checkpoints["122B"], "Q4_K_M"), "24G,16G", "128G")
    assert isinstance(plan, Plan)
    assert from_json(to_json(plan), "plan.json") == plan
    assert from_builtins(Machine, asdict(plan.machine)) == plan.machine
