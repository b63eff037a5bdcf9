"""Makes the plan: the fastest layout that has room, and the settings that go with it.

A `TensorInventory`, a `Machine` and `PlacementConstraints` come in, a frozen `Plan` goes out. Nothing is read,
asked or loaded here: what a trial load has measured of compute buffers may come in and takes the place of the
estimates.
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
from qwenctl.placement.explanations import reasons
from qwenctl.placement.forecast import TokenTraffic, forecast
from qwenctl.placement.layer_split import LayerAssignment, choose_layout
from qwenctl.placement.memory_breakdown import memory_plans, ram_needed
from qwenctl.placement.plan import Plan
from qwenctl.placement.problem import PlacementProblem, build_problem
from qwenctl.placement.tensor_inventory import TensorInventory
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU

# With experts in RAM a long prompt is computed on the GPU, to which they are copied once a micro-batch: four times as
# large, it costs a quarter of the copies.
_OFFLOAD_MICRO_BATCH = 2048


@dataclass(frozen=True)
class Solution:
    """A problem with its layout."""

    problem: PlacementProblem
    layout: LayerAssignment


def make_plan(
    inventory: TensorInventory,
    machine: Machine,
    wishes: PlacementConstraints,
    measured: Mapping[str, int] | None = None,
) -> Plan:
    """The plan for a model. Raises QwenctlError where wishes cannot be used together or something has no room."""
    validate_constraints(wishes)
    solved = _solve(inventory, machine, wishes, measured or {})
    problem, layout = solved.problem, solved.layout
    missing = max(0, ram_needed(problem, layout) - machine.ram_available)
    if missing and not wishes.paging:
        raise ram_exceeded(problem, layout)
    settings = _settings(problem, layout, paging=missing > 0)
    work = _work(problem, layout, missing)
    cast = forecast(machine, inventory.shape, work, problem.context.micro_batch)
    memories = memory_plans(problem, layout)
    why = reasons(problem, layout, settings, cast)
    return Plan(inventory.name, machine, settings, memories, cast, why, exact=bool(measured))


def context_tokens(inventory: TensorInventory, wishes: PlacementConstraints) -> int:
    """The context that is asked for, or a usual one. Raises QwenctlError for more than the model can be given."""
    trained = inventory.shape.context or DEFAULT_TOKENS
    longest = max_context(trained)
    if wishes.context > longest:
        asked = f"a context of {wishes.context:,} tokens"
        raise QwenctlError(f"{asked}: the model supports {longest:,}", f"-c {longest}")
    return wishes.context or min(trained, DEFAULT_TOKENS)


def _solve(
    inventory: TensorInventory, machine: Machine, wishes: PlacementConstraints, measured: Mapping[str, int]
) -> Solution:
    tokens = context_tokens(inventory, wishes)
    usual = min(load_params(wishes).micro_batch_tokens, tokens)
    flash, forks = wishes.flash != "off", int(wishes.draft != "off")
    whole = tokens * wishes.sequences
    context = ContextParams(whole, wishes.sequences, wishes.cache_k, wishes.cache_v, usual, flash, forks)
    problem = build_problem(inventory, machine, wishes, context, measured)
    layout = choose_layout(problem)
    if not wishes.micro_batch and inventory.shape.experts and any(map(problem.offloads, range(len(problem.devices)))):
        larger = min(_OFFLOAD_MICRO_BATCH, tokens, wishes.batch or tokens)
        if (layout is None or layout.has_cpu_experts) and larger > usual:
            wider = build_problem(inventory, machine, wishes, replace(context, micro_batch=larger), measured)
            if (wide := choose_layout(wider)) is not None:
                problem, layout = wider, wide
    if layout is None:
        raise device_memory_exceeded(problem)
    return Solution(problem, layout)


def _settings(problem: PlacementProblem, layout: LayerAssignment, *, paging: bool) -> LoadParams:
    wishes, context = problem.wishes, problem.context
    in_ram = any(memory == CPU for memory in layout.experts.values()) or CPU in problem.fixed.values()
    mode = wishes.load_mode
    if mode == "auto" and problem.machine.devices and (paging or in_ram):
        mode = "mmap" if paging else "none"  # read into memory that a GPU copies from fast
    fixed = load_params(wishes)
    return replace(
        fixed,
        context_tokens=context.tokens,
        threads=wishes.threads or problem.machine.cores,
        batch_tokens=wishes.batch or max(fixed.batch_tokens, context.micro_batch),
        micro_batch_tokens=context.micro_batch,
        gpu_layers=sum(layout.counts) if problem.machine.devices else wishes.gpu_layers,
        load_mode=mode,
        placement=to_placement(problem, layout),
    )


def _work(problem: PlacementProblem, layout: LayerAssignment, missing: int) -> TokenTraffic:
    where = tensor_devices(problem, layout)
    experts = [tensor for tensor in problem.inventory.tensors if tensor.is_expert and tensor.name in where]
    used = [number for number, count in enumerate(layout.counts) if count]
    return TokenTraffic(
        reads=layout.reads,
        full_reads=layout.full_reads,
        device_layers=len(problem.rows) - layout.start,
        copied=sum(tensor.n_bytes for tensor in experts if where[tensor.name] == CPU),
        offloads=any(map(problem.offloads, used)),
        weights=problem.inventory.n_bytes,
        paged_bytes=missing,
    )
