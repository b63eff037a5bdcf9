"""A model, a machine and wishes as the numbers between which a planner chooses.

llama.cpp gives layers to devices in rows: the blocks in order, then the output; a device has an unbroken run of them
and the CPU has what comes before the first run. With a row go its dense weights and its cache; each tensor of its
routed experts may lie elsewhere. What the wishes fix is taken out here. Nothing is chosen.
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

_MARGIN_SHARE, _MARGIN_BYTES = 16, GIB  # what stays free of a device: a sixteenth, a GiB at most
_VISION_FACTOR = 1.35  # weights and buffers of the vision tower, by the bytes of its file
_RPC = "RPC"


@dataclass(frozen=True)
class LayerCost:
    """Bytes that go with a row: dense weights, cache. `read` is read for each token, `full_read` of a full cache.

    `experts` are the tensors of its routed experts that may lie anywhere.
    """

    dense: int = 0
    cache: int = 0
    read: float = 0.0
    full_read: float = 0.0
    experts: Layer = ()


@dataclass(frozen=True)
class PlacementProblem:
    """`fixed` names the memory of tensors that the wishes fix; they are in no row. `devices` may be used, in order.

    `measured` are bytes of compute buffers that a load has shown, in the place of the estimate.
    """

    inventory: TensorInventory
    machine: Machine
    wishes: PlacementConstraints
    context: ContextParams
    devices: tuple[Device, ...]
    rows: tuple[LayerCost, ...]
    fixed: Mapping[str, str]
    measured: Mapping[str, int]

    @property
    def must_fill(self) -> bool:
        """Whether all experts that are not fixed have to be on devices."""
        return self.wishes.cpu_experts is not None and self.wishes.cpu_experts < ALL_EXPERTS

    def room(self, device: int) -> int:
        """Bytes of a device that may be used: what is free without the margin."""
        given = self.devices[device]
        targets = self.wishes.fit_targets
        margin = min(given.total_bytes // _MARGIN_SHARE, _MARGIN_BYTES)
        if targets:
            margin = targets[min(device, len(targets) - 1)]
        limit = dict(self.wishes.limits).get(given.name, given.free_bytes)
        return max(0, min(given.free_bytes - margin, limit))

    def vision(self, device: int) -> int:
        """Bytes of the vision tower, which lies on the first device."""
        own = self.inventory.vision_bytes if self.wishes.vision else 0
        return int((self.wishes.vision_bytes or own) * _VISION_FACTOR) if device == 0 else 0

    def offloads(self, device: int) -> bool:
        """Whether a device copies experts from RAM to compute a long prompt; over a network it does not."""
        return self.devices[device].backend != _RPC

    def device_compute(self, device: int, *, mixed: bool, used: int) -> int:
        """Bytes of the compute buffers of a device when `used` are used; `mixed` if experts lie in RAM."""
        name = self.devices[device].name
        if name in self.measured:
            return self.measured[name]
        pipelined = self.is_pipelined(mixed=mixed, used=used)
        copied = self.inventory.largest_bytes  # one tensor at a time is copied from RAM for a long prompt
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
        """Whether llama.cpp lets devices work at the same time: if all lies on several, and no tensor apart."""
        return used > 1 and not mixed and not self.fixed

    def is_loaded(self, tensor: TensorEntry) -> bool:
        """Whether it is read at all: the MTP block is only if it is wanted."""
        return self.wishes.mtp or not self.inventory.is_mtp(tensor)


def build_problem(
    inventory: TensorInventory,
    machine: Machine,
    wishes: PlacementConstraints,
    context: ContextParams,
    measured: Mapping[str, int],
) -> PlacementProblem:
    """The problem of placing a model. Raises QwenctlError for a device that is not there."""
    devices = _devices(machine, wishes)
    fixed = _fixed(inventory, devices, wishes)
    problem = PlacementProblem(inventory, machine, wishes, context, devices, (), fixed, measured)
    free: dict[int, list[TensorEntry]] = {}
    for tensor in inventory.tensors:
        if tensor.name not in fixed and tensor.name != TOKEN_EMBEDDINGS and problem.is_loaded(tensor):
            free.setdefault(tensor.layer, []).append(tensor)
    rows = tuple(_row(problem, number, free.get(number, [])) for number in range(inventory.shape.blocks + 1))
    return PlacementProblem(inventory, machine, wishes, context, devices, rows, fixed, measured)


def _row(problem: PlacementProblem, number: int, tensors: list[TensorEntry]) -> LayerCost:
    inventory, shape, context = problem.inventory, problem.inventory.shape, problem.context
    dense = [tensor for tensor in tensors if not tensor.is_expert]
    weights = sum(tensor.n_bytes for tensor in dense)
    if number == shape.blocks and inventory.is_tied and OUTPUT not in problem.fixed:
        weights += next(one.n_bytes for one in inventory.tensors if one.name == TOKEN_EMBEDDINGS)
    cache, full_read, read = 0, 0.0, float(weights)
    if number in shape.full_layers:
        cache = cache_bytes(shape, context)
        full_read = cache / context.sequences
    elif number < shape.layers:
        cache = state_bytes(shape, context)
        read += 2 * cache / context.sequences  # it is written too
    elif number < shape.blocks and problem.wishes.mtp:
        cache = cache_bytes(shape, replace(context, tokens=MTP_HEAD_TOKENS))
    experts = tuple((tensor.name, tensor.n_bytes) for tensor in tensors if tensor.is_expert)
    return LayerCost(weights, cache, read, full_read, experts)


def _devices(machine: Machine, wishes: PlacementConstraints) -> tuple[Device, ...]:
    if wishes.devices == (NO_DEVICE,) or wishes.gpu_layers == 0:
        return ()
    named = {device.name: device for device in machine.devices}
    for name in wishes.devices:
        _check_device(name, named)
    devices = tuple(named[name] for name in wishes.devices) or machine.devices
    if len(wishes.split) > len(devices) or len(wishes.fit_targets) > max(1, len(devices)):
        option = "-ts" if len(wishes.split) > len(devices) else "--fit-target"
        raise QwenctlError(f"{option} has more numbers than there are devices ({len(devices)})", _there(named))
    if wishes.gpu_layers > 0 and not devices:
        asked = f"-ngl {wishes.gpu_layers}: this llama.cpp can use no GPU"
        raise QwenctlError(asked, "see `qwenctl doctor`", ExitCode.CONFIG)
    return devices


def _check_device(name: str, named: Mapping[str, Device]) -> None:
    if name not in named:
        raise QwenctlError(f"no device is named {name}", _there(named))


def _there(named: Mapping[str, Device]) -> str:
    return f"available: {', '.join(named)}" if named else "there is none: see `qwenctl doctor`"


def _fixed(inventory: TensorInventory, devices: tuple[Device, ...], wishes: PlacementConstraints) -> dict[str, str]:
    """The memory of each tensor that a wish names; the first override that matches wins, as in llama.cpp."""
    named = {device.name: device for device in devices}
    overrides = [
        (re.compile(pattern), CPU if device.upper() == CPU else device) for pattern, device in wishes.overrides
    ]
    names = [tensor.name for tensor in inventory.tensors]
    for pattern, device in overrides:
        if device != CPU:
            _check_device(device, named)
        if not any(map(pattern.search, names)):
            raise QwenctlError(f"-ot '{pattern.pattern}' matches no tensor", "`qwenctl plan --json` lists the names")
    fixed = {}
    for tensor in inventory.tensors:
        found = next((device for pattern, device in overrides if pattern.search(tensor.name)), None)
        in_ram = tensor.is_expert and wishes.cpu_experts is not None and tensor.layer < wishes.cpu_experts
        if found or in_ram:
            fixed[tensor.name] = found or CPU
    return fixed
