"""Starts an engine and loads a model into it: with given parameters, or by a plan.

A function that starts an engine comes in; an engine with the model in it goes out. Between plan and load another
program may take the memory of a device: then the next plan puts fewer experts there, what has changed is said, and a
new engine tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from qwenctl.engine.interface import InferenceEngine, LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.placement.plan import Plan, plan_deviations
from qwenctl.protocol.load import LoadParams, LoadProgress, ModelInfo
from qwenctl.protocol.placement import CPU

_ATTEMPTS = 8
_ATTEMPT_SHARES = (1 / 16, 1 / 8, 1 / 4)  # a device is believed to have less by so much, then by a third each time
# How often each failure is taken for a want of memory. A driver may end the process for it; so may much else.
_RETRIED = {ExitCode.NO_MEMORY: _ATTEMPTS - 1, ExitCode.ENGINE_CRASHED: 2}
Follow = Callable[[Iterator[LoadProgress | ModelInfo]], ModelInfo]
EngineType = TypeVar("EngineType", bound=InferenceEngine)


class LoggingEngine(InferenceEngine, Protocol):
    """An engine with a log."""

    def write_log(self, line: str) -> None:
        """Write a line into the log."""


@dataclass(frozen=True)
class OpenRequest:
    """How to open: `start` an engine, `follow` its progress, `tell` a person.

    `replan` makes a plan in which devices hold no more bytes than these, by name. `compares` if what is loaded is all
    that was planned.
    """

    start: Callable[[], LoggingEngine]
    follow: Follow
    replan: Callable[[Mapping[str, int]], Plan]
    tell: Callable[[str], None]
    compares: bool = True


def load_engine(
    path: Path, params: LoadParams, start: Callable[[], EngineType], follow: Follow
) -> tuple[EngineType, ModelInfo]:
    """A new engine with the model at `path` in it, and what was loaded; the engine is closed if that fails.

    `follow` reads the events of the load, and shows them or not. Raises QwenctlError.
    """
    engine = start()
    try:
        return engine, follow(engine.load(path, params))
    except BaseException:
        engine.close()
        raise


def wait_for_load(events: Iterator[LoadProgress | ModelInfo]) -> ModelInfo:
    """A `follow` that shows nothing."""
    for event in events:
        if isinstance(event, ModelInfo):
            return event
    raise QwenctlError("the engine stopped without loading a model", code=ExitCode.ENGINE_CRASHED)


def open_by_plan(path: Path, plan: Plan, opening: OpenRequest) -> LoadedEngine:
    """An engine with the model at `path` in it. Raises QwenctlError if it cannot be loaded by smaller plans either."""
    for attempt in range(_ATTEMPTS):
        try:
            engine, loaded = load_engine(path, plan.settings, opening.start, opening.follow)
        except QwenctlError as error:
            plan = _smaller(plan, error, opening, attempt)
            continue
        for line in plan_deviations(plan, loaded.memory) if opening.compares else ():
            engine.write_log(f"warning: {line}")
        return LoadedEngine(engine, loaded)
    raise QwenctlError("no plan fits on the devices", "another program may be using their memory", ExitCode.NO_MEMORY)


def _smaller(plan: Plan, error: QwenctlError, opening: OpenRequest, attempt: int) -> Plan:
    """The next plan to try. Raises `error` where there is none."""
    used = [memory.name for memory in plan.memories if memory.name != CPU and memory.n_bytes]
    if attempt >= _RETRIED.get(error.code, 0) or not used:
        raise error
    failed = [name for name in used if _is_named(plan, name, error.message)] or used
    limits = {memory.name: memory.n_bytes for memory in plan.memories if memory.name in used}
    for name in failed:
        limits[name] = int(limits[name] * (1 - (*_ATTEMPT_SHARES, *[1 / 3] * _ATTEMPTS)[attempt]))
    try:
        smaller = opening.replan(limits)
    except QwenctlError as nothing_fits:
        raise error from nothing_fits
    opening.tell(f"{' and '.join(failed)} did not have enough memory for the plan; {_changes(plan, smaller)}")
    return smaller


def _is_named(plan: Plan, name: str, message: str) -> bool:
    """Whether llama.cpp says that a device failed; those of RPC servers it names by where they are."""
    device = next(one for one in plan.machine.devices if one.name == name)
    return (device.description if device.backend == "RPC" else name) in message


def _changes(before: Plan, after: Plan) -> str:
    """What another plan does otherwise, in words."""
    found = []
    for old, new in zip(before.memories, after.memories, strict=True):
        less = old.n_bytes - new.n_bytes
        if old.name != CPU and less:
            found.append(f"{abs(less) >> 20:,} MiB {'less' if less > 0 else 'more'} for {old.name}")
    layers = {one.name: next((part.layers for part in one.parts if part.layers), "none") for one in after.memories}
    where = f", expert layers in RAM: {layers[CPU]}" if layers[CPU] != "none" else ""
    return f"trying again with {', '.join(found) or 'the same'}{where}"
