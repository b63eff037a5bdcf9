"""The placement problem: model, machine and constraints as the numbers among which a planner chooses.

llama.cpp assigns layer slots to devices: the blocks in order, then the output. A device has a contiguous range of
slots, and the CPU has the slots before the first range. A slot holds a layer's dense weights and its cache; each tensor
of its routed experts may be elsewhere. Tensors fixed by constraints are taken out here. Nothing is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.profile import GIB, Device, Machine
from qwenctl.models.context_memory import MTP_HEAD_TOKENS
from qwenctl.placement.constraints import ALL_EXPERTS, NO_DEVICE, PlacementConstraints
from qwenctl.placement.context_budget import ContextParams, cache_bytes, device_compute, ram_compute, state_bytes
from qwenctl.placement.expert_knapsack import Layer
from qwenctl.placement.tensor_inventory import OUTPUT, TOKEN_EMBEDDINGS, TensorEntry, TensorInventory
from qwenctl.protocol.placement import CPU

_MARGIN_SHARE, _MARGIN_BYTES = 16, GIB  # stays free on a device: a sixteenth, but at most 1 GiB
_VISION_FACTOR = 1.35  # weights and buffers of the vision encoder, relative to the bytes of its file
_RPC = "RPC"


@dataclass(frozen=True)
class LayerCost:
    """Bytes of a layer slot: `dense` weights and `cache`.

    `read` bytes are read per token, and `full_read` more with a full cache. `experts` are the tensors of its routed
    experts, which may be anywhere.
    """

    dense: int = 0
    cache: int = 0
    read: float = 0.0
    full_read: float = 0.0
    experts: Layer = ()


@dataclass(frozen=True)
class PlacementProblem:
    """A problem; `devices` may be used, in this order.

    `fixed` maps tensors fixed by the constraints to their memory; they are in no layer slot. `measured` are bytes of
    compute buffers from a trial load, which replace the estimates.
    """

    inventory: TensorInventory
    machine: Machine
    constraints: PlacementConstraints
    context: ContextParams
    devices: tuple[Device, ...]
    layer_slots: tuple[LayerCost, ...]
    fixed: Mapping[str, str]
    measured: Mapping[str, int]

    @property
    def must_fill(self) -> bool:
        """Whether all experts that are not fixed must be on devices."""
        return self.constraints.cpu_experts is not None and self.constraints.cpu_experts < ALL_EXPERTS

    def capacity(self, device: int) -> int:
        """Bytes of a device that may be used: its free bytes minus the margin."""
        properties = self.devices[device]
        targets = self.constraints.fit_targets
        margin = min(properties.total_bytes // _MARGIN_SHARE, _MARGIN_BYTES)
        if targets:
            margin = targets[min(device, len(targets) - 1)]
        limit = dict(self.constraints.limits).get(properties.name, properties.free_bytes)
        return max(0, min(properties.free_bytes - margin, limit))

    def vision_bytes(self, device: int) -> int:
        """Bytes of the vision encoder, which is on the first device."""
        return int(self.constraints.vision_bytes * _VISION_FACTOR) if device == 0 else 0

    def offloads(self, device: int) -> bool:
        """Whether a device computes long prompts with experts copied from RAM; RPC devices do not."""
        return self.devices[device].backend != _RPC

    def device_compute(self, device: int, *, mixed: bool, used: int) -> int:
        """Bytes of the compute buffers of a device if `used` devices are in use; `mixed` if experts are in RAM too."""
        name = self.devices[device].name
        if name in self.measured:
            return self.measured[name]
        pipelined = self.is_pipelined(mixed=mixed, used=used)
        copied = self.inventory.largest_bytes  # for a long prompt, tensors are copied from RAM one by one
        return device_compute(
            self.inventory.shape, self.context, mixed=mixed, later=device > 0 and mixed, pipelined=pipelined
        ) + (copied if mixed and self.offloads(device) else 0)

    def ram_compute(self, *, experts: bool, layers: bool, pipelined: bool) -> int:
        """Bytes of the compute buffers in RAM."""
        shape = self.inventory.shape
        return self.measured.get(CPU) or ram_compute(
            shape, self.context, experts=experts, layers=layers, pipelined=pipelined
        )

    def is_pipelined(self, *, mixed: bool, used: int) -> bool:
        """Whether llama.cpp runs the devices in a pipeline: with several of them, nothing in RAM and no overrides."""
        return used > 1 and not mixed and not self.fixed

    def is_loaded(self, tensor: TensorEntry) -> bool:
        """Whether a tensor is loaded; those of the MTP block are only if the constraints ask for it."""
        return self.constraints.mtp or not self.inventory.is_mtp(tensor)


def build_problem(
    inventory: TensorInventory,
    machine: Machine,
    constraints: PlacementConstraints,
    context: ContextParams,
    measured: Mapping[str, int],
) -> PlacementProblem:
    """The problem of placing a model. Raises QwenctlError for an unknown device."""
    devices = _devices(machine, constraints)
    fixed = _fixed_tensors(inventory, devices, constraints)
    problem = PlacementProblem(
        inventory=inventory,
        machine=machine,
        constraints=constraints,
        context=context,
        devices=devices,
        layer_slots=(),
        fixed=fixed,
        measured=measured,
    )
    free: dict[int, list[TensorEntry]] = {}
    for tensor in inventory.tensors:
        if tensor.name not in fixed and tensor.name != TOKEN_EMBEDDINGS and problem.is_loaded(tensor):
            free.setdefault(tensor.layer, []).append(tensor)
    layer_slots = tuple(
        _layer_cost(problem, number, free.get(number, [])) for number in range(inventory.shape.blocks + 1)
    )
    return replace(problem, layer_slots=layer_slots)


def _layer_cost(problem: PlacementProblem, number: int, tensors: list[TensorEntry]) -> LayerCost:
    inventory, shape, context = problem.inventory, problem.inventory.shape, problem.context
    dense = [tensor for tensor in tensors if not tensor.is_expert]
    weights = sum(tensor.n_bytes for tensor in dense)
    # llama.cpp copies tied embeddings to the output's device.
    if number == shape.blocks and inventory.is_tied and OUTPUT not in problem.fixed:
        weights += next(tensor.n_bytes for tensor in inventory.tensors if tensor.name == TOKEN_EMBEDDINGS)
    cache, full_read, read_bytes = 0, 0.0, float(weights)
    if number in shape.full_layers:
        cache = cache_bytes(shape, context)
        full_read = cache / context.sequences
    elif number < shape.layers:
        cache = state_bytes(shape, context)
        read_bytes += 2 * cache / context.sequences  # the state is read and written
    elif number < shape.blocks and problem.constraints.mtp and inventory.has_mtp:
        cache = cache_bytes(shape, replace(context, tokens=MTP_HEAD_TOKENS))
    experts = tuple((tensor.name, tensor.n_bytes) for tensor in tensors if tensor.is_expert)
    return LayerCost(weights, cache, read_bytes, full_read, experts)


def _devices(machine: Machine, constraints: PlacementConstraints) -> tuple[Device, ...]:
    if constraints.devices == (NO_DEVICE,) or constraints.gpu_layers == 0:
        return ()
    named = {device.name: device for device in machine.devices}
    for name in constraints.devices:
        _check_device("--device", name, named)
    devices = tuple(named[name] for name in constraints.devices) or machine.devices
    if len(constraints.split) > len(devices) or len(constraints.fit_targets) > max(1, len(devices)):
        option = "-ts" if len(constraints.split) > len(devices) else "--fit-target"
        raise QwenctlError(f"{option} has more numbers than there are devices ({len(devices)})", _device_hint(named))
    if constraints.gpu_layers > 0 and not devices:
        message = f"-ngl {constraints.gpu_layers}: this llama.cpp can use no GPU"
        raise QwenctlError(message, "see `qwenctl doctor`", ExitCode.CONFIG)
    return devices


def _check_device(option: str, name: str, named: Mapping[str, Device]) -> None:
    if name not in named:
        raise QwenctlError(f"{option}: no device is named {name}", _device_hint(named))


def _device_hint(named: Mapping[str, Device]) -> str:
    return f"available: {', '.join(named)}" if named else "there is none: see `qwenctl doctor`"


def _fixed_tensors(
    inventory: TensorInventory, devices: tuple[Device, ...], constraints: PlacementConstraints
) -> dict[str, str]:
    """The memory of each tensor fixed by a constraint; the first matching override wins, as in llama.cpp."""
    named = {device.name: device for device in devices}
    overrides = [
        (re.compile(pattern), CPU if device.upper() == CPU else device) for pattern, device in constraints.overrides
    ]
    names = [tensor.name for tensor in inventory.tensors]
    for pattern, device in overrides:
        if device != CPU:
            _check_device("-ot", device, named)
        if not any(map(pattern.search, names)):
            raise QwenctlError(f"-ot '{pattern.pattern}' matches no tensor", "`qwenctl plan --json` lists the names")
    fixed = {}
    for tensor in inventory.tensors:
        overridden = next((device for pattern, device in overrides if pattern.search(tensor.name)), None)
        in_ram = tensor.is_expert and constraints.cpu_experts is not None and tensor.layer < constraints.cpu_experts
        if overridden or in_ram:
            fixed[tensor.name] = overridden or CPU
    return fixed
