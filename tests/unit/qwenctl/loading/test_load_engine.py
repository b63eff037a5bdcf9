"""A model is loaded by a plan, or by smaller ones where a device has less memory; failed engines are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.loading.load_engine import LoggingEngine, OpenRequest, load_engine, open_by_plan, wait_for_load
from qwenctl.machine.profile import Device
from qwenctl.placement.plan import MemoryPart, Plan
from qwenctl.protocol.load import LoadParams, LoadProgress, ModelInfo
from tests.support.example_plan import EXAMPLE_PLAN, GPU, RAM

MODEL = ModelInfo("toy", "qwen35moe", "toy", 1, 1, 1, 1)
NO_MEMORY = QwenctlError("CUDA0: out of memory", code=ExitCode.NO_MEMORY)
PLAN = replace(
    EXAMPLE_PLAN, machine=replace(EXAMPLE_PLAN.machine, devices=(Device("CUDA0", "CUDA", "", 32 << 30, 32 << 30),))
)


@dataclass
class LoadingEngine:
    """Loads a model, or fails as it is told to."""

    error: QwenctlError | None = None
    is_closed: bool = False
    log: list[str] = field(default_factory=list)

    def load(self, path: Path, params: LoadParams) -> Iterator[LoadProgress | ModelInfo]:
        yield LoadProgress(0.5)
        if self.error is not None:
            raise self.error
        yield MODEL

    def write_log(self, line: str) -> None:
        self.log.append(line)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Opening:
    """Opens by a plan with these engines, one after the other; keeps the limits and the texts."""

    engines: list[LoadingEngine]
    limits: list[Mapping[str, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    replan_error: QwenctlError | None = None

    def open(self, plan: Plan = PLAN) -> LoadedEngine:
        left = iter(self.engines)
        start = cast("Callable[[], LoggingEngine]", lambda: next(left))
        return open_by_plan(Path("toy.gguf"), plan, OpenRequest(start, wait_for_load, self._replan, self.told.append))

    def _replan(self, limits: Mapping[str, int]) -> Plan:
        self.limits.append(limits)
        if self.replan_error is not None:
            raise self.replan_error
        moved = GPU.n_bytes - limits["CUDA0"]
        ram = replace(RAM, parts=(MemoryPart("routed experts", 16 * 2**30 + moved, "0-13"),))
        return replace(PLAN, memories=(ram, replace(GPU, parts=(MemoryPart("attention", limits["CUDA0"]),))))


def test_loaded_engine_is_returned_open_and_a_failed_one_is_closed() -> None:
    good, bad = LoadingEngine(), LoadingEngine(NO_MEMORY)
    assert load_engine(Path("x"), LoadParams(), lambda: good, wait_for_load) == (good, MODEL)  # type: ignore[type-var]  # as much of an engine as is used
    assert not good.is_closed
    with pytest.raises(QwenctlError, match="out of memory"):
        load_engine(Path("x"), LoadParams(), lambda: bad, wait_for_load)  # type: ignore[type-var]  # the same
    assert bad.is_closed


def test_load_that_ends_without_a_model_is_a_crash() -> None:
    with pytest.raises(QwenctlError) as caught:
        wait_for_load(iter([LoadProgress(0.5)]))
    assert caught.value.code == ExitCode.ENGINE_CRASHED


def test_plan_that_fits_is_loaded_at_once() -> None:
    opening = Opening([LoadingEngine()])
    assert opening.open().loaded == MODEL
    assert (opening.limits, opening.told) == ([], [])


def test_device_without_memory_gets_smaller_plans_until_one_fits() -> None:
    opening = Opening([LoadingEngine(NO_MEMORY), LoadingEngine(NO_MEMORY), LoadingEngine()])
    opening.open()
    first = GPU.n_bytes * 15 // 16
    assert [limit["CUDA0"] for limit in opening.limits] == [first, first * 7 // 8]
    assert [engine.is_closed for engine in opening.engines] == [True, True, False]
    assert opening.told[0] == (
        "CUDA0 did not have enough memory for the plan; trying again with 1,280 MiB less for CUDA0, "
        "expert layers in RAM: 0-13"
    )


@pytest.mark.parametrize(("code", "tries"), [(ExitCode.NO_MEMORY, 8), (ExitCode.ENGINE_CRASHED, 3), (ExitCode.IO, 1)])
def test_failure_is_retried_as_often_as_it_may_be_a_want_of_memory(code: ExitCode, tries: int) -> None:
    opening = Opening([LoadingEngine(QwenctlError("CUDA0 failed", code=code)) for _ in range(9)])
    with pytest.raises(QwenctlError, match="CUDA0 failed"):
        opening.open()
    assert sum(engine.is_closed for engine in opening.engines) == tries


def test_error_of_the_load_is_raised_where_no_smaller_plan_fits() -> None:
    opening = Opening([LoadingEngine(NO_MEMORY)], replan_error=QwenctlError("does not fit"))
    with pytest.raises(QwenctlError, match="out of memory"):
        opening.open()


def test_plan_without_devices_is_not_retried() -> None:
    opening = Opening([LoadingEngine(NO_MEMORY), LoadingEngine()])
    with pytest.raises(QwenctlError, match="out of memory"):
        opening.open(replace(PLAN, memories=(RAM,)))
