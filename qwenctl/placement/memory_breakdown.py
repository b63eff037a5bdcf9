"""The memory use of a layout, by memory and class of data.

A `PlacementProblem` and its `LayerAssignment` come in; a `MemoryPlan` for the RAM and for each device goes out.
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

_PROCESS_BYTES = 300 << 20  # the interpreter with libllama and a vocabulary, as measured
_CHECKPOINT_BYTES, _CHECKPOINT_SHARE = 2 << 30, 20  # the engine's default budget for checkpoints


def memory_plans(problem: PlacementProblem, layout: LayerAssignment) -> tuple[MemoryPlan, ...]:
    """The RAM first, then all devices in order, unused ones included."""
    used = _weights(problem, layout)
    _add_context(problem, layout, used)
    _add_buffers(problem, layout, used)
    layers = _expert_layers(problem, layout)
    machine = problem.machine
    sizes = [(CPU, machine.ram_total, machine.ram_available)]
    sizes += [(device.name, device.total_bytes, device.free_bytes) for device in machine.devices]
    return tuple(MemoryPlan(name, total, free, _parts(used[name], layers.get(name, ""))) for name, total, free in sizes)


def ram_needed(problem: PlacementProblem, layout: LayerAssignment) -> int:
    """Bytes of RAM that a load needs, including the process itself."""
    return memory_plans(problem, layout)[0].n_bytes + _PROCESS_BYTES


def matches_model(inventory: TensorInventory, plan: Plan) -> bool:
    """Whether `plan` was made for this model and quantization, whatever the file's name.

    The embeddings may be counted twice, and the MTP block not at all.
    """
    trunk, mtp = Counter[str](), Counter[str]()
    for tensor in inventory.tensors:
        (mtp if inventory.is_mtp(tensor) else trunk)[tensor.tensor_class] += tensor.n_bytes
    planned = {
        tensor_class: sum(memory.of(tensor_class) for memory in plan.memories)
        for tensor_class in trunk
        if tensor_class != EMBEDDINGS
    }
    return all(
        # The MTP block's tensors may be planned or left out.
        n_bytes in (trunk[tensor_class], trunk[tensor_class] + mtp[tensor_class])
        for tensor_class, n_bytes in planned.items()
    )


def format_ranges(numbers: Iterable[int]) -> str:
    """Integers as "0-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _parts(used: dict[str, int], layers: str) -> tuple[MemoryPart, ...]:
    ordered = sorted(used.items(), key=lambda item: CLASSES.index(item[0]))
    return tuple(
        MemoryPart(data_class, n_bytes, layers if data_class == "routed experts" else "")
        for data_class, n_bytes in ordered
        if n_bytes
    )


def _weights(problem: PlacementProblem, layout: LayerAssignment) -> dict[str, dict[str, int]]:
    used: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    devices = tensor_devices(problem, layout)
    for tensor in problem.inventory.tensors:
        if tensor.name in devices:
            used[devices[tensor.name]][tensor.tensor_class] += tensor.n_bytes
    last = layer_devices(problem, layout)[-1]
    if problem.inventory.is_tied and last != CPU and OUTPUT not in problem.fixed:
        sizes = {tensor.name: tensor.n_bytes for tensor in problem.inventory.tensors}
        used[last][EMBEDDINGS] += sizes[TOKEN_EMBEDDINGS]  # a copy, as the output
    return used


def _add_context(problem: PlacementProblem, layout: LayerAssignment, used: dict[str, dict[str, int]]) -> None:
    shape = problem.inventory.shape
    full = {*shape.full_layers, *range(shape.layers, shape.blocks)}
    for number, (row, device) in enumerate(zip(problem.layer_slots, layer_devices(problem, layout), strict=True)):
        used[device]["KV cache" if number in full else "state"] += row.cache


def _add_buffers(problem: PlacementProblem, layout: LayerAssignment, by_memory: dict[str, dict[str, int]]) -> None:
    in_ram = any(memory == CPU for memory in layout.experts.values()) or CPU in problem.fixed.values()
    n_used = sum(map(bool, layout.counts))
    pipelined = problem.is_pipelined(mixed=layout.has_cpu_experts, used=n_used)
    by_memory[CPU]["buffers"] += problem.ram_compute(experts=in_ram, layers=layout.start > 0, pipelined=pipelined)
    requested = problem.constraints.snapshot_bytes
    default = min(_CHECKPOINT_BYTES, problem.machine.ram_total // _CHECKPOINT_SHARE)
    by_memory[CPU]["snapshots"] += default if requested is None else requested
    for number, device in enumerate(problem.devices):
        if layout.counts[number] or device.name in by_memory:
            by_memory[device.name]["buffers"] += problem.device_compute(
                number, mixed=layout.has_cpu_experts, used=n_used
            )
            by_memory[device.name]["vision"] += problem.vision_bytes(number)


def _expert_layers(problem: PlacementProblem, layout: LayerAssignment) -> dict[str, str]:
    """The layers whose routed experts are in each memory, as text; partial layers are marked."""
    devices = tensor_devices(problem, layout)
    layers: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    n_tensors: dict[int, int] = defaultdict(int)
    for tensor in problem.inventory.tensors:
        if tensor.is_expert and tensor.name in devices:
            layers[devices[tensor.name]][tensor.layer] += 1
            n_tensors[tensor.layer] += 1
    return {name: _format_layers(counts, n_tensors) for name, counts in layers.items()}


def _format_layers(counts: dict[int, int], n_tensors: dict[int, int]) -> str:
    complete = [layer for layer, count in counts.items() if count == n_tensors[layer]]
    partial = [layer for layer, count in counts.items() if count < n_tensors[layer]]
    texts: Sequence[str] = [format_ranges(complete), *(f"part of {layer}" for layer in sorted(partial))]
    return ", ".join(text for text in texts if text)
