"""Plans for a local model file on the local machine, with measured compute buffers.

Constraints come in, a `Plan` goes out: a child process loads the model without its weights and reports what the graphs
would need. The buffers depend on the plan and the plan on the buffers, so this is repeated until they agree.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from qwenctl.child_process import child_command
from qwenctl.machine.llama_process import llama_environment
from qwenctl.machine.profile import Machine
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.plan import Plan, with_measured_buffers
from qwenctl.placement.planner import make_plan
from qwenctl.placement.tensor_inventory import TensorInventory
from qwenctl.protocol.codec import encode
from qwenctl.protocol.load import Load, LoadParams

_ROUNDS, _CHILD_SECONDS = 5, 120


def plan_with_dry_load(inventory: TensorInventory, machine: Machine, constraints: PlacementConstraints) -> Plan:
    """The plan with the buffers of a trial load, if there is a device; otherwise with estimates.

    Raises QwenctlError.
    """
    plan = make_plan(inventory, machine, constraints)
    if not machine.devices or not inventory.path:
        return plan
    settings = plan.settings
    fixed = replace(constraints, micro_batch=settings.micro_batch_tokens, batch=settings.batch_tokens)
    largest: dict[str, int] = {}
    for _ in range(_ROUNDS):
        measured = compute_bytes(Path(inventory.path), plan.settings)
        if measured is None:
            return plan
        # Keep the maximum of all rounds, so that a plan that alternates between two layouts has room for both.
        largest = {name: max(n_bytes, largest.get(name, 0)) for name, n_bytes in {**largest, **measured}.items()}
        previous, plan = plan, make_plan(inventory, machine, fixed, largest)
        if plan.settings == previous.settings:
            return with_measured_buffers(plan, measured)
    return plan


def compute_bytes(path: Path, settings: LoadParams) -> Mapping[str, int] | None:
    """Bytes of the compute buffers by memory if the model is loaded with `settings`; None if the trial load fails."""
    try:
        completed = subprocess.run(
            child_command("qwenctl.engine.dry_load"),
            input=encode(Load(str(path), settings)),
            capture_output=True,
            timeout=_CHILD_SECONDS,
            env=llama_environment(),
            check=True,
        )
        return {str(name): int(n_bytes) for name, n_bytes in json.loads(completed.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return None
