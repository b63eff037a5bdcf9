"""Translates constraints and a layout for the engine: into `LoadParams` with their `Placement`.

`load_params` is the only place where constraints become parameters, and `constraints_of` the way back. A
`PlacementProblem` and its `LayerAssignment` make the `Placement`: devices, layers for each, and overrides for tensors
that are not with their layer. An override names tensors exactly: its pattern is anchored at both ends, and no two
patterns match the same tensor.
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
    """The parameters of a load without a plan. What the constraints leave open has the default of `LoadParams`."""
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
    """The constraints that lead to these parameters, as far as they tell.

    Of the placement only the RPC servers are fixed.
    """
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
        mtp=params.draft in ("auto", "mtp"),
        draft=params.draft,
        draft_max=params.draft_max,
        draft_min=params.draft_min,
    )


def tensor_devices(problem: PlacementProblem, layout: LayerAssignment) -> dict[str, str]:
    """The device of each tensor that is loaded."""
    slot_devices = layer_devices(problem, layout)
    devices = {}
    for tensor in problem.inventory.tensors:
        if problem.is_loaded(tensor):
            default = CPU if tensor.name == TOKEN_EMBEDDINGS else slot_devices[tensor.layer]
            devices[tensor.name] = layout.experts.get(tensor.name) or problem.fixed.get(tensor.name) or default
    return devices


def layer_devices(problem: PlacementProblem, layout: LayerAssignment) -> list[str]:
    """The device of each layer slot."""
    pairs = zip(problem.devices, layout.counts, strict=True)
    return [CPU] * layout.start + [device.name for device, count in pairs for _ in range(count)]


def to_placement(problem: PlacementProblem, layout: LayerAssignment) -> Placement:
    """The placement for the engine; an empty one on a machine without devices."""
    if not problem.machine.devices:
        return Placement()
    devices = tensor_devices(problem, layout)
    used = {device.name: count for device, count in zip(problem.devices, layout.counts, strict=True)}
    used = {name: count for name, count in used.items() if count or name in devices.values()}
    return Placement(
        devices=tuple(used) or (CPU,),
        layers=tuple(float(count) for count in used.values()) if len(used) > 1 else (),
        overrides=overrides(_displaced_tensors(problem, layout, devices)),
        rpc=problem.constraints.rpc,
    )


def overrides(devices: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Patterns and devices for tensors by name, one pattern for all layers with the same tensors on a device."""
    parts: dict[tuple[str, str], set[str]] = {}  # by memory and layer
    patterns = []
    for name, memory in devices.items():
        if name.startswith("blk."):
            _, layer, part = name.split(".", 2)
            parts.setdefault((memory, layer), set()).add(part)
        else:
            patterns.append((f"^{re.escape(name)}$", memory))
    # Group layers that have the same tensors on the same device, so that one pattern covers them all.
    layers: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (memory, layer), names in parts.items():
        layers.setdefault((memory, tuple(sorted(names))), []).append(layer)
    for (memory, tensor_names), numbers in layers.items():
        named = "|".join(map(re.escape, tensor_names))
        patterns.append((rf"^blk\.({'|'.join(numbers)})\.({named})$", memory))
    return tuple(patterns)


def _displaced_tensors(
    problem: PlacementProblem, layout: LayerAssignment, devices: Mapping[str, str]
) -> dict[str, str]:
    """The tensors that are not where llama.cpp would put them with their layer."""
    slot_devices = layer_devices(problem, layout)
    layers = {tensor.name: tensor.layer for tensor in problem.inventory.tensors}
    expected = {name: CPU if name == TOKEN_EMBEDDINGS else slot_devices[layers[name]] for name in devices}
    return {name: memory for name, memory in devices.items() if memory != expected[name]}
