"""Which numbers of layers with experts on GPUs are worth a measurement: from none to as many as a plan has room for."""

from __future__ import annotations

import re

from qwenctl.placement.plan import MemoryPlan, Plan
from qwenctl.protocol.placement import CPU

_EXPERTS = "routed experts"


def expert_layers(memory: MemoryPlan) -> set[int]:
    """The layers of which experts lie in a memory, by the ranges that its plan tells."""
    texts = ", ".join(part.layers for part in memory.parts if part.kind == _EXPERTS)
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", texts):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def steps(plan: Plan, most: int) -> list[tuple[int, int]]:
    """Pairs of layers with all experts on GPUs and the `--n-cpu-moe` for it, at most `most` of them, in rising order.

    None where a model has no experts, or a machine no GPU.
    """
    in_ram = set().union(*(expert_layers(memory) for memory in plan.memories if memory.name == CPU))
    on_devices = set().union(*(expert_layers(memory) for memory in plan.memories if memory.name != CPU))
    every, whole = in_ram | on_devices, len(on_devices - in_ram)
    if not on_devices:
        return []
    counts = sorted({round(whole * number / (most - 1)) for number in range(most)}) if most > 1 else [whole]
    return [(count, max(every) + 1 - count) for count in counts]
