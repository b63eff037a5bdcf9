"""Starts an engine and loads a model into it: with given parameters, or by a plan.

A function that starts an engine comes in; an engine with the model loaded goes out. Between plan and load another
program may take memory of a device: then a smaller plan puts fewer experts there, the user is told what changed, and a
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
# After each failure, a device is assumed to have less memory by this share; after the last one, by a third each time.
_ATTEMPT_SHARES = (1 / 16, 1 / 8, 1 / 4)
# How often each failure is treated as lack of memory. Some drivers crash the process for it, but crashes have other
# causes too.
_RETRIED = {ExitCode.NO_MEMORY: _ATTEMPTS - 1, ExitCode.ENGINE_CRASHED: 2}
Follow = Callable[[Iterator[LoadProgress | ModelInfo]], ModelInfo]
EngineType = TypeVar("EngineType", bound=InferenceEngine)


class LoggingEngine(InferenceEngine, Protocol):
    """An engine with a log file."""

    def write_log(self, line: str) -> None:
        """Write a line to the log."""


@dataclass(frozen=True)
class OpenRequest:
    """How to open a model: `start` an engine, `follow` shows the progress, `notify` gets messages for the user.

    `replan` makes a plan in which no device holds more than the given bytes, by name. With `compares`, deviations of
    the memory used from the plan are logged; that makes sense only if the plan includes everything that is loaded.
    """

    start: Callable[[], LoggingEngine]
    follow: Follow
    replan: Callable[[Mapping[str, int]], Plan]
    notify: Callable[[str], None]
    compares: bool = True


def load_engine(
    path: Path, params: LoadParams, start: Callable[[], EngineType], follow: Follow
) -> tuple[EngineType, ModelInfo]:
    """A new engine with the model at `path`, and what was loaded; the engine is closed if that fails.

    `follow` consumes the events of loading and may show them. Raises QwenctlError.
    """
    engine = start()
    try:
        return engine, follow(engine.load(path, params))
    except BaseException:
        engine.close()
        raise


def wait_for_load(events: Iterator[LoadProgress | ModelInfo]) -> ModelInfo:
    """A `follow` that shows nothing. Raises QwenctlError if the events end without a loaded model."""
    for event in events:
        if isinstance(event, ModelInfo):
            return event
    raise QwenctlError("the engine stopped without loading a model", code=ExitCode.ENGINE_CRASHED)


def open_by_plan(path: Path, plan: Plan, opening: OpenRequest) -> LoadedEngine:
    """An engine with the model at `path`. Raises QwenctlError if it cannot be loaded with smaller plans either."""
    for attempt in range(_ATTEMPTS):
        try:
            engine, loaded = load_engine(path, plan.settings, opening.start, opening.follow)
        except QwenctlError as error:
            plan = _smaller_plan(plan, error, opening, attempt)
            continue
        for line in plan_deviations(plan, loaded.memory) if opening.compares else ():
            engine.write_log(f"warning: {line}")
        return LoadedEngine(engine, loaded)
    raise QwenctlError("no plan fits on the devices", "another program may be using their memory", ExitCode.NO_MEMORY)


def _smaller_plan(plan: Plan, error: QwenctlError, opening: OpenRequest, attempt: int) -> Plan:
    """The next plan to try. Raises `error` if there is none, or if memory was not the problem."""
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
    opening.notify(
        f"{' and '.join(failed)} did not have enough memory for the plan; {_describe_changes(plan, smaller)}"
    )
    return smaller


def _is_named(plan: Plan, name: str, message: str) -> bool:
    """Whether llama.cpp's error message names a device; it calls devices of RPC servers by their address."""
    device = next(one for one in plan.machine.devices if one.name == name)
    return (device.description if device.backend == "RPC" else name) in message


def _describe_changes(before: Plan, after: Plan) -> str:
    """How the plan `after` differs from `before`, in words."""
    found = []
    for old, new in zip(before.memories, after.memories, strict=True):
        less = old.n_bytes - new.n_bytes
        if old.name != CPU and less:
            found.append(f"{abs(less) >> 20:,} MiB {'less' if less > 0 else 'more'} for {old.name}")
    layers = {one.name: next((part.layers for part in one.parts if part.layers), "none") for one in after.memories}
    where = f", expert layers in RAM: {layers[CPU]}" if layers[CPU] != "none" else ""
    return f"trying again with {', '.join(found) or 'the same'}{where}"
