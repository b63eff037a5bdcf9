"""Opens a model for many records at once, as the options for its placement ask.

The context of a batch is made after the model is loaded, and grows with the number of records that are answered at the
same time: a plan leaves it room on the devices, a quarter of their memory at most.
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

_CACHE_SHARE = 4
# The context that a model is loaded with is of no use for a batch: as small as can be.
_LOADED_TOKENS = 256


@dataclass(frozen=True)
class BatchPlan:
    """How a batch's model is loaded, by a `plan` if there is one, and `most` records that are answered at once."""

    path: Path
    asked: LoadRequest
    settings: LoadParams
    most: int
    plan: Plan | None = None

    def open(self, start: Callable[[], LoggingEngine], follow: Follow, tell: Callable[[str], None]) -> LoadedEngine:
        """A new engine with the model in it. Raises QwenctlError."""
        settings = replace(self.settings, context_tokens=_LOADED_TOKENS, snapshot_bytes=0)
        if self.plan is None:
            return LoadedEngine(*load_engine(self.path, settings, start, follow))
        machine, loading = self.plan.machine, replace(self.plan, settings=settings)

        def replan(limits: Mapping[str, int]) -> Plan:
            smaller = _planned(self, machine, self.most, limits)
            return replace(smaller, settings=_placed(settings, smaller))

        return open_by_plan(self.path, loading, OpenRequest(start, follow, replan, tell, compares=False))


def plan_batch(path: Path, asked: LoadRequest, settings: LoadParams, most: int, *, fixed: bool) -> BatchPlan:
    """How to load for `most` records at once, or fewer if that is not `fixed`. Raises QwenctlError."""
    wanted = BatchPlan(path, asked, settings, most)
    if asked.plan is not None:
        plan = load_plan_file(asked.plan, path)
        return replace(wanted, settings=_placed(settings, plan), plan=plan)
    machine = detect_machine(path, asked.constraints)
    while machine is not None:
        plan = _planned(wanted, machine, most, {})
        cache = sum(one.of("KV cache", "state") for one in plan.memories if one.name != CPU)
        room = sum(device.free_bytes for device in machine.devices) // _CACHE_SHARE
        if fixed or most == 1 or cache <= room:
            return replace(wanted, settings=_placed(settings, plan), most=most, plan=plan)
        most = max(1, most // 2)
    return wanted


def _planned(batch: BatchPlan, machine: Machine, most: int, limits: Mapping[str, int]) -> Plan:
    """The plan for `most` records at once; its buffers are estimated, for a trial load knows one sequence only."""
    from qwenctl.placement.planner import make_plan
    from qwenctl.placement.tensor_inventory import from_gguf

    given = batch.asked.constraints
    room, micro_batch = batch.settings.context_tokens or RECORD_TOKENS, batch.settings.micro_batch_tokens
    constraints = replace(
        given, context=room, sequences=most, snapshot_bytes=0, limits=tuple(limits.items()),
        batch=given.micro_batch, micro_batch=given.micro_batch or micro_batch,
    )  # fmt: skip
    return make_plan(from_gguf(batch.path), machine, constraints)


def _placed(settings: LoadParams, plan: Plan) -> LoadParams:
    """The settings of a batch, with where the plan puts tensors and how it reads them."""
    planned = plan.settings
    return replace(
        settings, gpu_layers=planned.gpu_layers, placement=planned.placement, load_mode=planned.load_mode,
        threads=planned.threads, adapts_threads=planned.adapts_threads,
    )  # fmt: skip
