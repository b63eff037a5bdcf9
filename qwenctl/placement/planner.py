"""Makes the plan: the fastest layout that fits, and the settings that go with it.

A `TensorInventory`, a `Machine` and `PlacementConstraints` come in, a frozen `Plan` goes out. Nothing is read, asked or
loaded here; measured sizes of compute buffers from a trial load may come in, to replace the estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qwenctl.errors import QwenctlError
from qwenctl.machine.profile import Machine
from qwenctl.models.context_memory import DEFAULT_TOKENS, max_context
from qwenctl.placement.capacity_errors import device_memory_exceeded, ram_exceeded
from qwenctl.placement.constraints import PlacementConstraints, validate_constraints
from qwenctl.placement.context_budget import ContextParams
from qwenctl.placement.engine_args import load_params, tensor_devices, to_placement
from qwenctl.placement.explanations import explain_plan
from qwenctl.placement.forecast import TokenTraffic, forecast
from qwenctl.placement.layer_split import LayerAssignment, choose_layout
from qwenctl.placement.memory_breakdown import memory_plans, ram_needed
from qwenctl.placement.plan import Plan
from qwenctl.placement.problem import PlacementProblem, build_problem
from qwenctl.placement.tensor_inventory import TensorInventory
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU

# With experts in RAM, a long prompt is computed on the GPU, and the experts are copied there once per micro-batch: a
# micro-batch four times as large needs a quarter of the copies.
_OFFLOAD_MICRO_BATCH = 2048


@dataclass(frozen=True)
class Solution:
    """A problem and its layout."""

    problem: PlacementProblem
    layout: LayerAssignment


def make_plan(
    inventory: TensorInventory,
    machine: Machine,
    constraints: PlacementConstraints,
    measured: Mapping[str, int] | None = None,
) -> Plan:
    """The plan for a model.

    Raises QwenctlError if the constraints cannot be used together or something does not fit.
    """
    validate_constraints(constraints)
    solution = _solve(inventory, machine, constraints, measured or {})
    problem, layout = solution.problem, solution.layout
    missing = max(0, ram_needed(problem, layout) - machine.ram_available)
    if missing and not constraints.paging:
        raise ram_exceeded(problem, layout)
    settings = _settings(problem, layout, paging=missing > 0)
    traffic = _token_traffic(problem, layout, missing)
    prediction = forecast(machine, inventory.shape, traffic, problem.context.micro_batch)
    memories = memory_plans(problem, layout)
    explanations = explain_plan(problem, layout, settings, prediction)
    return Plan(inventory.name, machine, settings, memories, prediction, explanations, exact=bool(measured))


def context_tokens(inventory: TensorInventory, constraints: PlacementConstraints) -> int:
    """The requested context in tokens, or the default. Raises QwenctlError for more than the model supports."""
    trained = inventory.shape.context or DEFAULT_TOKENS
    longest = max_context(trained)
    if constraints.context > longest:
        message = f"-c {constraints.context}: the model supports {longest:,} tokens"
        raise QwenctlError(message, f"-c {longest}")
    return constraints.context or min(trained, DEFAULT_TOKENS)


def _solve(
    inventory: TensorInventory, machine: Machine, constraints: PlacementConstraints, measured: Mapping[str, int]
) -> Solution:
    """Solve with the default micro-batch, then with a larger one if experts are in RAM. Raises QwenctlError."""
    tokens = context_tokens(inventory, constraints)
    micro_batch = min(load_params(constraints).micro_batch_tokens, tokens)
    flash, forks = constraints.flash != "off", int(constraints.draft != "off")
    total_tokens = tokens * constraints.sequences
    context = ContextParams(
        total_tokens, constraints.sequences, constraints.cache_k, constraints.cache_v, micro_batch, flash, forks
    )
    problem = build_problem(inventory, machine, constraints, context, measured)
    layout = choose_layout(problem)
    if (
        not constraints.micro_batch
        and inventory.shape.experts
        and any(map(problem.offloads, range(len(problem.devices))))
    ):
        larger = min(_OFFLOAD_MICRO_BATCH, tokens, constraints.batch or tokens)
        # Larger micro-batches need larger buffers, so the layout is chosen again and may not fit.
        if (layout is None or layout.has_cpu_experts) and larger > micro_batch:
            larger_problem = build_problem(
                inventory, machine, constraints, replace(context, micro_batch=larger), measured
            )
            if (larger_layout := choose_layout(larger_problem)) is not None:
                problem, layout = larger_problem, larger_layout
    if layout is None:
        raise device_memory_exceeded(problem)
    return Solution(problem, layout)


def _settings(problem: PlacementProblem, layout: LayerAssignment, *, paging: bool) -> LoadParams:
    constraints, context = problem.constraints, problem.context
    in_ram = any(memory == CPU for memory in layout.experts.values()) or CPU in problem.fixed.values()
    mode = constraints.load_mode
    if mode == "auto" and problem.machine.devices and (paging or in_ram):
        mode = "mmap" if paging else "none"  # "none": into pinned memory, from which a GPU copies faster
    fixed = load_params(constraints)
    return replace(
        fixed,
        context_tokens=context.tokens,
        threads=constraints.threads or problem.machine.cores,
        batch_tokens=constraints.batch or max(fixed.batch_tokens, context.micro_batch),
        micro_batch_tokens=context.micro_batch,
        gpu_layers=sum(layout.counts) if problem.machine.devices else constraints.gpu_layers,
        load_mode=mode,
        placement=to_placement(problem, layout),
    )


def _token_traffic(problem: PlacementProblem, layout: LayerAssignment, missing: int) -> TokenTraffic:
    devices = tensor_devices(problem, layout)
    experts = [tensor for tensor in problem.inventory.tensors if tensor.is_expert and tensor.name in devices]
    used = [number for number, count in enumerate(layout.counts) if count]
    return TokenTraffic(
        reads=layout.reads,
        full_reads=layout.full_reads,
        device_layers=len(problem.layer_slots) - layout.start,
        copied=sum(tensor.n_bytes for tensor in experts if devices[tensor.name] == CPU),
        offloads=any(map(problem.offloads, used)),
        weights=problem.inventory.n_bytes,
        paged_bytes=missing,
    )
