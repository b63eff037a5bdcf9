"""Opening of models by a plan, with the messages recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from qwenctl.engine.client import Engine
from qwenctl.engine.interface import LoadedEngine
from qwenctl.loading.load_engine import OpenRequest, open_by_plan
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.plan import Plan
from qwenctl.placement.tensor_inventory import from_gguf
from qwenctl.placement.trial_load import plan_with_dry_load
from qwenctl.protocol.load import ModelInfo


def open_with_plan(
    moe: Path, plan: Plan, constraints: PlacementConstraints, logs: Path, messages: list[str]
) -> LoadedEngine:
    """Load the model `moe` as planned, or with less if memory is short; messages are appended to `messages`."""

    def follow(events: Iterator[object]) -> ModelInfo:
        loaded = list(events)[-1]
        assert isinstance(loaded, ModelInfo)
        return loaded

    def replan(limits: Mapping[str, int]) -> Plan:
        return plan_with_dry_load(from_gguf(moe), plan.machine, replace(constraints, limits=tuple(limits.items())))

    return open_by_plan(moe, plan, OpenRequest(lambda: Engine.start(logs), follow, replan, messages.append))
