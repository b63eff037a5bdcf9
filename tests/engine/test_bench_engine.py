"""The engine's measurements for `qwenctl bench`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenctl.engine.client import Engine
from qwenctl.errors import QwenctlError
from qwenctl.protocol.load import LoadParams, ModelInfo


@pytest.fixture(scope="module")
def engine(toy_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.start(tmp_path_factory.mktemp("log")) as engine:
        (*_, last) = engine.load(toy_gguf, LoadParams(threads=1, context_tokens=512, batch_tokens=64))
        assert isinstance(last, ModelInfo)
        yield engine


def test_measure_leaves_only_the_measured_tokens_in_the_context(engine: Engine) -> None:
    for _ in range(2):
        assert engine.measure(prompt=40, depth=100) > 0
        assert engine.stats().context_used == 140
        assert engine.stats().snapshots == 1
        assert engine.measure(generate=3, depth=100) > 0
        assert engine.stats().context_used == 103
    assert engine.measure(generate=3) > 0
    assert engine.stats().context_used == 3


def test_measure_excludes_the_prefill_of_its_depth(engine: Engine) -> None:
    deep, without = engine.measure(generate=1, depth=480), engine.measure(prompt=480)
    again = min(engine.measure(generate=1, depth=480) for _ in range(3))
    assert min(deep, again) < without  # a token costs less than 480


def test_measure_beyond_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(QwenctlError) as refused:
        engine.measure(prompt=500, depth=100)
    assert (refused.value.message, refused.value.code) == ("600 tokens, context is 512", 65)
