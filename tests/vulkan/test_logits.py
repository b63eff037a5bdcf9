"""The device computes the same logits as the CPU within half precision, wherever the experts are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.plan import plan_deviations
from tests.support.libllama import Logits, squared_error
from tests.support.placed_logits import placed_logits
from tests.vulkan.device import (
    ALL_ON_THE_DEVICE,
    EXPERTS_IN_RAM,
    ON_THE_CPU,
    PATIENCE,
    device_memory,
    most_bytes,
    planned,
)

ERROR, TOTAL = 1e-3, 1 << 30


def compute_logits(path: Path, constraints: PlacementConstraints) -> Logits:
    """The logits [2, vocabulary] after a short prompt and after one more token."""
    with device_memory(TOTAL) as folder:
        plan = planned(path, constraints)
        found, memory = placed_logits(path, plan.settings, timeout_s=PATIENCE)
        more = most_bytes(folder) - sum(one.n_bytes for one in plan.memories[1:])
    assert plan_deviations(plan, memory) == []
    print(f"\nallocated on the device while it computed, beyond the plan: {more:,} bytes")
    assert more < TOTAL // 16  # the margin that a plan leaves free
    return np.frombuffer(found, np.float32).reshape(2, -1)


@pytest.fixture(scope="module")
def on_the_cpu(toy_gguf: Path) -> Logits:
    return compute_logits(toy_gguf, ON_THE_CPU)


@pytest.mark.parametrize(
    "constraints", [ALL_ON_THE_DEVICE, EXPERTS_IN_RAM], ids=["all on the device", "experts in RAM"]
)
def test_logits_match_the_cpu(toy_gguf: Path, on_the_cpu: Logits, constraints: PlacementConstraints) -> None:
    found = compute_logits(toy_gguf, constraints)
    errors = [squared_error(mine, wanted) for mine, wanted in zip(found, on_the_cpu, strict=True)]
    print(f"\nmean squared error of the prompt and of a token: {errors[0]:.1e}, {errors[1]:.1e}")
    assert max(errors) < ERROR
    assert found.argmax(-1).tolist() == on_the_cpu.argmax(-1).tolist()
