"""The plan for a model file that is here, on the machine that is here.

Wishes come in, a `Plan` goes out whose buffers have been tried: a child process loads the model without its weights and
says what the graphs would need. As that depends on the plan, and the plan on it, this is done again until it agrees.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from qwenctl.machine.llama_process import llama_environment
from qwenctl.machine.profile import Machine
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.plan import Plan, with_measured_buffers
from qwenctl.placement.planner import make_plan
from qwenctl.placement.tensor_inventory import TensorInventory
from qwenctl.protocol.codec import encode
from qwenctl.protocol.load import Load, LoadParams

_ROUNDS, _CHILD_SECONDS = 5, 120


def plan_with_dry_load(inventory: TensorInventory, machine: Machine, wishes: PlacementConstraints) -> Plan:
    """The plan with the buffers that a trial load needs, where there is a device; else that of the estimate.

    Raises QwenctlError.
    """
    plan = make_plan(inventory, machine, wishes)
    if not machine.devices or not inventory.path:
        return plan
    settings = plan.settings
    kept = replace(wishes, micro_batch=settings.micro_batch_tokens, batch=settings.batch_tokens)
    largest: dict[str, int] = {}
    for _ in range(_ROUNDS):
        measured = compute_bytes(Path(inventory.path), plan.settings)
        if measured is None:
            return plan
        # The largest that was seen: a plan that moves between two layouts has room for both.
        largest = {name: max(n_bytes, largest.get(name, 0)) for name, n_bytes in {**largest, **measured}.items()}
        before, plan = plan, make_plan(inventory, machine, kept, largest)
        if plan.settings == before.settings:
            return with_measured_buffers(plan, measured)
    return plan


def compute_bytes(path: Path, settings: LoadParams) -> Mapping[str, int] | None:
    """Bytes of the compute buffers by memory, if the model were loaded so; None if a trial load fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "qwenctl.engine.dry_load"],
            input=encode(Load(str(path), settings)),
            capture_output=True,
            timeout=_CHILD_SECONDS,
            env=llama_environment(),
            check=True,
        )
        return {str(name): int(n_bytes) for name, n_bytes in json.loads(done.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return None
