"""From constraints and a layout to what the engine is told: `LoadParams` with their `Placement`.

`load_params` is the one place where constraints become parameters, `constraints_of` the way back. A `PlacementProblem`
and its `LayerAssignment` make the `Placement`: devices, rows, and overrides for the tensors that lie apart from their
row. An override names tensors exactly: its pattern is anchored at both ends, and no two patterns match the same tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.layer_split import LayerAssignment
from qwenctl.placement.problem import PlacementProblem
from qwenctl.placement.tensor_inventory import TOKEN_EMBEDDINGS
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU, Placement


def load_params(constraints: PlacementConstraints) -> LoadParams:
    """The parameters of a load for which nothing is planned. What is not fixed has the default of `LoadParams`."""
    default = LoadParams()
    return LoadParams(
        context_tokens=constraints.context,
        threads=constraints.threads,
        batch_tokens=constraints.batch or default.batch_tokens,
        micro_batch_tokens=constraints.micro_batch or default.micro_batch_tokens,
        gpu_layers=constraints.gpu_layers,
        cache_type_k=constraints.cache_k,
        cache_type_v=constraints.cache_v,
        flash_attention=constraints.flash,
        load_mode=constraints.load_mode,
        snapshot_bytes=constraints.snapshot_bytes,
        draft=constraints.draft,
        draft_max=constraints.draft_max,
        draft_min=constraints.draft_min,
        adapts_threads=not constraints.threads,
    )


def constraints_of(params: LoadParams) -> PlacementConstraints:
    """What was fixed for a load, as far as its parameters tell; where tensors lie is left open but for RPC servers."""
    return PlacementConstraints(
        context=params.context_tokens,
        cache_k=params.cache_type_k,
        cache_v=params.cache_type_v,
        flash=params.flash_attention,
        threads=params.threads,
        batch=params.batch_tokens,
        micro_batch=params.micro_batch_tokens,
        snapshot_bytes=params.snapshot_bytes,
        rpc=params.placement.rpc,
    )


def tensor_devices(problem: PlacementProblem, layout: LayerAssignment) -> dict[str, str]:
    """The memory of each tensor that is loaded."""
    rows = layer_devices(problem, layout)
    found = {}
    for tensor in problem.inventory.tensors:
        if problem.is_loaded(tensor):
            own = CPU if tensor.name == TOKEN_EMBEDDINGS else rows[tensor.layer]
            found[tensor.name] = layout.experts.get(tensor.name) or problem.fixed.get(tensor.name) or own
    return found


def layer_devices(problem: PlacementProblem, layout: LayerAssignment) -> list[str]:
    """The memory that each row goes to."""
    pairs = zip(problem.devices, layout.counts, strict=True)
    return [CPU] * layout.start + [device.name for device, count in pairs for _ in range(count)]


def to_placement(problem: PlacementProblem, layout: LayerAssignment) -> Placement:
    """What the engine is told. Without any device on the machine, nothing."""
    if not problem.machine.devices:
        return Placement()
    where = tensor_devices(problem, layout)
    used = {device.name: count for device, count in zip(problem.devices, layout.counts, strict=True)}
    used = {name: count for name, count in used.items() if count or name in where.values()}
    return Placement(
        devices=tuple(used) or (CPU,),
        layers=tuple(float(count) for count in used.values()) if len(used) > 1 else (),
        overrides=overrides(_apart(problem, layout, where)),
        rpc=problem.wishes.rpc,
    )


def overrides(where: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Patterns for tensors by name, with the memory of each: one for all layers in which the same parts lie there."""
    parts: dict[tuple[str, str], set[str]] = {}  # by memory and layer
    found = []
    for name, memory in where.items():
        if name.startswith("blk."):
            _, layer, part = name.split(".", 2)
            parts.setdefault((memory, layer), set()).add(part)
        else:
            found.append((f"^{re.escape(name)}$", memory))
    layers: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (memory, layer), names in parts.items():
        layers.setdefault((memory, tuple(sorted(names))), []).append(layer)
    for (memory, names_), numbers in layers.items():
        named = "|".join(map(re.escape, names_))
        found.append((rf"^blk\.({'|'.join(numbers)})\.({named})$", memory))
    return tuple(found)


def _apart(problem: PlacementProblem, layout: LayerAssignment, where: Mapping[str, str]) -> dict[str, str]:
    """The tensors that do not lie where llama.cpp would put them with their row."""
    rows = layer_devices(problem, layout)
    layers = {tensor.name: tensor.layer for tensor in problem.inventory.tensors}
    usual = {name: CPU if name == TOKEN_EMBEDDINGS else rows[layers[name]] for name in where}
    return {name: memory for name, memory in where.items() if memory != usual[name]}
