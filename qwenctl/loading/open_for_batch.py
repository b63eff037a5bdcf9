"""Opens a model for a batch. A `LoadRequest` comes in; a plan, and an engine with the model loaded, go out.

The context of a batch is created after the model is loaded, and grows with the number of records answered at once: the
plan reserves memory for it on the devices, a quarter of what is free there at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.engine.interface import LoadedEngine
from qwenctl.loading.load_engine import Follow, LoggingEngine, OpenRequest, load_engine, open_by_plan
from qwenctl.loading.open_model import detect_machine, load_plan_file
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.batch import RECORD_TOKENS
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU

if TYPE_CHECKING:
    from qwenctl.machine.profile import Machine
    from qwenctl.placement.plan import Plan

_CACHE_SHARE = 4  # a context may take one part in this many of the free device memory
# A batch creates its own context: the one that the model is loaded with is as small as possible.
_LOADED_TOKENS = 256


@dataclass(frozen=True)
class BatchPlan:
    """How to load the model of a batch, with a `plan` if there is one, for up to `max_parallel` records at once."""

    path: Path
    load: LoadRequest
    settings: LoadParams
    max_parallel: int
    plan: Plan | None = None

    def open(self, start: Callable[[], LoggingEngine], follow: Follow, notify: Callable[[str], None]) -> LoadedEngine:
        """A new engine with the model loaded; if a device lacks memory, by smaller plans. Raises QwenctlError."""
        settings = replace(self.settings, context_tokens=_LOADED_TOKENS, snapshot_bytes=0)
        if self.plan is None:
            return LoadedEngine(*load_engine(self.path, settings, start, follow))
        machine, loading = self.plan.machine, replace(self.plan, settings=settings)

        def replan(limits: Mapping[str, int]) -> Plan:
            smaller = _make_plan(self, machine, self.max_parallel, limits)
            return replace(smaller, settings=_with_placement(settings, smaller))

        return open_by_plan(self.path, loading, OpenRequest(start, follow, replan, notify, compares=False))


def plan_batch(path: Path, load: LoadRequest, settings: LoadParams, max_parallel: int, *, fixed: bool) -> BatchPlan:
    """A plan for `max_parallel` records at once. Raises QwenctlError.

    Unless `fixed`, the number is halved until their context is small enough.
    """
    batch = BatchPlan(path, load, settings, max_parallel)
    if load.plan is not None:
        plan = load_plan_file(load.plan, path)
        return replace(batch, settings=_with_placement(settings, plan), plan=plan)
    machine = detect_machine(path, load.constraints)
    while machine is not None:
        plan = _make_plan(batch, machine, max_parallel, {})
        cache = sum(one.of("KV cache", "state") for one in plan.memories if one.name != CPU)
        room = sum(device.free_bytes for device in machine.devices) // _CACHE_SHARE
        if fixed or max_parallel == 1 or cache <= room:
            return replace(batch, settings=_with_placement(settings, plan), max_parallel=max_parallel, plan=plan)
        max_parallel = max(1, max_parallel // 2)
    return batch


def _make_plan(batch: BatchPlan, machine: Machine, max_parallel: int, limits: Mapping[str, int]) -> Plan:
    """A plan for `max_parallel` records; buffer sizes are estimated: a trial load measures one sequence only."""
    from qwenctl.placement.planner import make_plan
    from qwenctl.placement.tensor_inventory import from_gguf

    given = batch.load.constraints
    room, micro_batch = batch.settings.context_tokens or RECORD_TOKENS, batch.settings.micro_batch_tokens
    constraints = replace(
        given, context=room, sequences=max_parallel, snapshot_bytes=0, limits=tuple(limits.items()),
        batch=given.micro_batch, micro_batch=given.micro_batch or micro_batch,
    )  # fmt: skip
    return make_plan(from_gguf(batch.path), machine, constraints)


def _with_placement(settings: LoadParams, plan: Plan) -> LoadParams:
    """`settings` with the placement, load mode and threads of the plan."""
    planned = plan.settings
    return replace(
        settings, gpu_layers=planned.gpu_layers, placement=planned.placement, load_mode=planned.load_mode,
        threads=planned.threads, adapts_threads=planned.adapts_threads,
    )  # fmt: skip
