"""What each memory will hold, class by class, in a layout.

A `PlacementProblem` and its `LayerAssignment` come in; a `MemoryPlan` for the RAM and for each device that is used goes
out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from quantize.recipe.tensor_classes import EMBEDDINGS
from qwenctl.placement.engine_args import layer_devices, tensor_devices
from qwenctl.placement.layer_split import LayerAssignment
from qwenctl.placement.plan import CLASSES, MemoryPart, MemoryPlan, Plan
from qwenctl.placement.problem import PlacementProblem
from qwenctl.placement.tensor_inventory import OUTPUT, TOKEN_EMBEDDINGS, TensorInventory
from qwenctl.protocol.placement import CPU

_PROCESS_BYTES = 300 << 20  # the interpreter with libllama and a vocabulary, measured
_SNAPSHOT_BYTES, _SNAPSHOT_SHARE = 2 << 30, 20  # what the engine keeps of earlier states


def memory_plans(problem: PlacementProblem, layout: LayerAssignment) -> tuple[MemoryPlan, ...]:
    """The RAM first, then the devices in order, those that nothing lies on too."""
    held = _weights(problem, layout)
    _add_context(problem, layout, held)
    _add_buffers(problem, layout, held)
    layers = _expert_layers(problem, layout)
    machine = problem.machine
    sizes = [(CPU, machine.ram_total, machine.ram_available)]
    sizes += [(device.name, device.total_bytes, device.free_bytes) for device in machine.devices]
    return tuple(MemoryPlan(name, total, free, _parts(held[name], layers.get(name, ""))) for name, total, free in sizes)


def ram_needed(problem: PlacementProblem, layout: LayerAssignment) -> int:
    """Bytes of RAM that a load needs, the process included."""
    return memory_plans(problem, layout)[0].n_bytes + _PROCESS_BYTES


def matches_model(inventory: TensorInventory, plan: Plan) -> bool:
    """Whether `plan` was made for this model in these types: files are renamed, but what they hold stays.

    The embeddings may be counted twice, and the MTP block not at all.
    """
    trunk, mtp = Counter[str](), Counter[str]()
    for tensor in inventory.tensors:
        (mtp if inventory.is_mtp(tensor) else trunk)[tensor.kind] += tensor.n_bytes
    planned = {kind: sum(memory.of(kind) for memory in plan.memories) for kind in trunk if kind != EMBEDDINGS}
    return all(n_bytes in (trunk[kind], trunk[kind] + mtp[kind]) for kind, n_bytes in planned.items())


def format_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as "0-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _parts(held: dict[str, int], layers: str) -> tuple[MemoryPart, ...]:
    ordered = sorted(held.items(), key=lambda item: CLASSES.index(item[0]))
    return tuple(
        MemoryPart(kind, n_bytes, layers if kind == "routed experts" else "") for kind, n_bytes in ordered if n_bytes
    )


def _weights(problem: PlacementProblem, layout: LayerAssignment) -> dict[str, dict[str, int]]:
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    where = tensor_devices(problem, layout)
    for tensor in problem.inventory.tensors:
        if tensor.name in where:
            held[where[tensor.name]][tensor.kind] += tensor.n_bytes
    last = layer_devices(problem, layout)[-1]
    if problem.inventory.is_tied and last != CPU and OUTPUT not in problem.fixed:
        sizes = {tensor.name: tensor.n_bytes for tensor in problem.inventory.tensors}
        held[last][EMBEDDINGS] += sizes[TOKEN_EMBEDDINGS]  # a copy, as the output
    return held


def _add_context(problem: PlacementProblem, layout: LayerAssignment, held: dict[str, dict[str, int]]) -> None:
    shape = problem.inventory.shape
    full = {*shape.full_layers, *range(shape.layers, shape.blocks)}
    for number, (row, owner) in enumerate(zip(problem.rows, layer_devices(problem, layout), strict=True)):
        held[owner]["KV cache" if number in full else "state"] += row.cache


def _add_buffers(problem: PlacementProblem, layout: LayerAssignment, held: dict[str, dict[str, int]]) -> None:
    in_ram = any(memory == CPU for memory in layout.experts.values()) or CPU in problem.fixed.values()
    used = sum(map(bool, layout.counts))
    pipelined = problem.is_pipelined(mixed=layout.has_cpu_experts, used=used)
    held[CPU]["buffers"] += problem.ram_compute(experts=in_ram, layers=layout.start > 0, pipelined=pipelined)
    wanted = problem.wishes.snapshot_bytes
    usual = min(_SNAPSHOT_BYTES, problem.machine.ram_total // _SNAPSHOT_SHARE)
    held[CPU]["snapshots"] += usual if wanted is None else wanted
    for number, device in enumerate(problem.devices):
        if layout.counts[number] or device.name in held:
            held[device.name]["buffers"] += problem.device_compute(number, mixed=layout.has_cpu_experts, used=used)
            held[device.name]["vision"] += problem.vision(number)


def _expert_layers(problem: PlacementProblem, layout: LayerAssignment) -> dict[str, str]:
    """The layers whose routed experts lie in each memory; those that lie there in part are marked."""
    where = tensor_devices(problem, layout)
    layers: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    whole: dict[int, int] = defaultdict(int)
    for tensor in problem.inventory.tensors:
        if tensor.is_expert and tensor.name in where:
            layers[where[tensor.name]][tensor.layer] += 1
            whole[tensor.layer] += 1
    return {name: _marked(counts, whole) for name, counts in layers.items()}


def _marked(counts: dict[int, int], whole: dict[int, int]) -> str:
    complete = [layer for layer, count in counts.items() if count == whole[layer]]
    partial = [layer for layer, count in counts.items() if count < whole[layer]]
    texts: Sequence[str] = [format_ranges(complete), *(f"part of {layer}" for layer in sorted(partial))]
    return ", ".join(text for text in texts if text)
