"""How the engine is told of a layout: devices, rows, and overrides for the tensors that lie apart from their row.

A `PlacementProblem` and its `LayerAssignment` come in, the engine's `Placement` goes out. An override names tensors
exactly: its pattern is anchored at both ends, and no two patterns match the same tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from qwenctl.placement.layer_split import LayerAssignment
from qwenctl.placement.problem import PlacementProblem
from qwenctl.placement.tensor_inventory import TOKEN_EMBEDDINGS
from qwenctl.protocol.placement import CPU, Placement


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
