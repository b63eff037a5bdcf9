"""A plan as a value: where a model's bytes go, how it is loaded, how fast it will be, and why.

Frozen dataclasses that survive a round trip through JSON (`plan_file`), so that a saved plan loads the same way later.
Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qwenctl.machine.profile import Machine
from qwenctl.placement.forecast import Forecast
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU, MemoryUse

_TOLERANCE = 0.03  # relative difference of planned and actual bytes above which there is a warning
_ROUNDING = 1 << 20  # bytes: llama.cpp logs hundredths of a MiB for each of a few dozen buffers, and pads tensors
CLASSES = (
    "attention", "linear attention", "shared expert", "feed-forward", "norms and routers", "embeddings", "MTP",
    "routed experts", "vision", "KV cache", "state", "buffers", "snapshots",
)  # fmt: skip
_CONTEXT, _COMPUTE, _UNLOGGED = ("KV cache", "state"), ("buffers",), ("vision", "snapshots")


@dataclass(frozen=True)
class MemoryPart:
    """Bytes of one class in one memory; `layers` lists the layers, as "0-11", if that is known."""

    kind: str
    n_bytes: int
    layers: str = ""


@dataclass(frozen=True)
class MemoryPlan:
    """One memory, "CPU" or a device: its total bytes, the bytes free before loading, and the parts planned for it."""

    name: str
    total_bytes: int
    free_bytes: int
    parts: tuple[MemoryPart, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.n_bytes for part in self.parts)

    def of(self, *kinds: str) -> int:
        """Bytes of the parts of these classes."""
        return sum(part.n_bytes for part in self.parts if part.kind in kinds)


@dataclass(frozen=True)
class Plan:
    """How to load a model.

    `settings` load it as planned; `memories` start with the RAM. `exact` if the compute buffers were measured, not
    estimated. `reasons` are sentences for the user.
    """

    model: str
    machine: Machine
    settings: LoadParams
    memories: tuple[MemoryPlan, ...]
    forecast: Forecast
    reasons: tuple[str, ...]
    exact: bool = False


def with_measured_buffers(plan: Plan, measured: Mapping[str, int]) -> Plan:
    """The plan with the measured bytes of compute buffers, by memory."""

    def with_buffers(memory: MemoryPlan) -> MemoryPlan:
        other_parts = tuple(part for part in memory.parts if part.kind not in _COMPUTE)
        n_bytes = measured.get(memory.name, 0)
        return replace(memory, parts=(*other_parts, MemoryPart(*_COMPUTE, n_bytes)) if n_bytes else other_parts)

    return replace(plan, memories=tuple(map(with_buffers, plan.memories)), exact=True)


def plan_deviations(plan: Plan, actual: Sequence[MemoryUse]) -> list[str]:
    """A sentence for each memory that took over 3 % more or less than planned.

    RAM is skipped if weights are mapped: mapped bytes include gaps and are not all in memory.
    """
    deviations = []
    for use in actual:
        planned = next((memory for memory in plan.memories if memory.name == use.name), None)
        if planned is None or use.mapped:
            continue
        expected = planned.n_bytes - planned.of(*_UNLOGGED)
        if abs(use.n_bytes - expected) > _TOLERANCE * max(use.n_bytes, expected) + _ROUNDING:
            weights = expected - planned.of(*_CONTEXT, *_COMPUTE)
            parts = ((weights, use.weights), (planned.of(*_CONTEXT), use.context), (planned.of(*_COMPUTE), use.compute))
            breakdown = ", ".join(
                f"{part} {was >> 20:,} of {plan_ >> 20:,}"
                for part, (plan_, was) in zip(("weights", "context", "buffers"), parts, strict=True)
            )
            label = "RAM" if use.name == CPU else use.name
            deviations.append(f"{label} holds {use.n_bytes >> 20:,} MiB, {expected >> 20:,} were planned ({breakdown})")
    return deviations
