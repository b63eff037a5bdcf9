"""An engine that hangs is noticed by what it does not do, and only by its own silence."""

from __future__ import annotations

import pytest

from qwenctl.batch.backends.engine_backend import EngineBackend, EngineBackendConfig
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.batch import BatchEvent, BatchRequest, BatchStarted, StartBatch
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.protocol.messages import Message


class Silent:
    """An engine that does nothing, and says nothing but once: when it has been listened to in vain so many times."""

    def __init__(self, times: int, then: BatchEvent | QwenctlError) -> None:
        self._times, self._then = times, then

    def send(self, request: BatchRequest) -> None:
        pass

    def receive(self, timeout_s: float | None) -> BatchEvent | None:
        self._times -= 1
        if self._times != -1:
            return None
        if isinstance(self._then, QwenctlError):
            raise self._then
        return self._then

    def cpu_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("silent", "hangs"), [(3, False), (9, True)])
def test_the_silence_of_an_engine_that_crashed_is_not_that_of_the_next(silent: int, hangs: bool) -> None:
    loaded = ModelInfo("toy", "qwen35moe", "toy", 1, 1, 256, 256)
    crash = QwenctlError("gone", "", ExitCode.ENGINE_CRASHED)
    engines = iter([Silent(0, BatchStarted(1, 256)), Silent(silent, BatchStarted(1, 256))])
    setup = EngineBackendConfig(
        lambda: (next(engines), loaded), StartBatch(LoadParams(), 1), 0, lambda _: None, longest_silence_s=6
    )
    answerer = EngineBackend(setup)
    answerer.submit(0, Record("0", 0, (Message("user", "hi"),), GenerationParams()))
    answerer.collect(1)
    answerer._engine = Silent(4, crash)
    for _ in range(5):
        answerer.collect(1)
    if hangs:
        with pytest.raises(QwenctlError, match="hangs"):
            answerer.collect(1)
    else:
        answerer.collect(1)
