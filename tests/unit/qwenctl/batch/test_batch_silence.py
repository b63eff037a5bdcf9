"""A hung engine is detected by its silence, counted for each engine separately."""

from __future__ import annotations

import pytest

from qwenctl.batch.backends.engine_backend import EngineBackend, EngineBackendConfig
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.batch import BatchEvent, BatchRequest, BatchStarted, StartBatch
from qwenctl.protocol.load import LoadParams, ModelInfo
from qwenctl.protocol.messages import Message


class SilentEngine:
    """An idle engine that returns nothing for `times` polls, then `then` once, then nothing again."""

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
def test_silence_of_crashed_engine_does_not_count_for_next_engine(silent: int, hangs: bool) -> None:
    loaded = ModelInfo("toy", "qwen35moe", "toy", 1, 1, 256, 256)
    crash = QwenctlError("gone", "", ExitCode.ENGINE_CRASHED)
    engines = iter([SilentEngine(0, BatchStarted(1, 256)), SilentEngine(silent, BatchStarted(1, 256))])
    setup = EngineBackendConfig(
        lambda: (next(engines), loaded), StartBatch(LoadParams(), 1), 0, lambda _: None, max_silence_s=6
    )
    backend = EngineBackend(setup)
    backend.submit(0, Record("0", 0, (Message("user", "hi"),), GenerationParams()))
    backend.collect(1)
    backend._engine = SilentEngine(4, crash)
    for _ in range(5):
        backend.collect(1)
    if hangs:
        with pytest.raises(QwenctlError, match="hangs"):
            backend.collect(1)
    else:
        backend.collect(1)
