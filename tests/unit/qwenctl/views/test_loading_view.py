"""Loading and the reading of a prefix are followed to their end, or fail with what happened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.protocol.messages import PrefillProgress, PrefixReady
from qwenctl.terminal.streams import StatusLine
from qwenctl.views.loading import follow_loading, follow_prefill

MODEL = ModelInfo("toy", "qwen35moe", "toy", 1, 1, 1, 1)
READY = PrefixReady(10, 10)


class Shown(StatusLine):
    """A status line that keeps what it shows."""

    def __init__(self) -> None:
        super().__init__(None)
        self.texts: list[str] = []

    def show(self, text: str) -> None:
        self.texts.append(text)

    def clear(self) -> None:
        self.texts.append("(cleared)")


def test_loading_shows_its_share_and_returns_the_model() -> None:
    status = Shown()
    assert follow_loading([LoadProgress(0.25), LoadProgress(1.0), MODEL], status) == MODEL
    assert status.texts == ["loading the model: 25%", "loading the model: 100%", "(cleared)"]


def test_prefix_shows_tokens_and_returns_when_it_is_read() -> None:
    status = Shown()
    assert follow_prefill([PrefillProgress(2000, 8000, 0.1), READY], status) == READY
    assert status.texts == ["reading the prefix: 25% of 8,000 tokens", "(cleared)"]


def test_events_that_end_early_are_a_crash_of_the_engine() -> None:
    status = Shown()
    with pytest.raises(QwenctlError, match="stopped without loading a model") as caught:
        follow_loading([LoadProgress(0.5)], status)
    assert caught.value.code == ExitCode.ENGINE_CRASHED
    with pytest.raises(QwenctlError, match="while it evaluated the prompt") as caught:
        follow_prefill([], status)
    assert caught.value.code == ExitCode.ENGINE_CRASHED


def test_error_of_the_engine_passes_and_the_line_is_cleared() -> None:
    def failing() -> Iterator[LoadProgress | ModelInfo]:
        yield LoadProgress(0.5)
        raise QwenctlError("not a model")

    status = Shown()
    with pytest.raises(QwenctlError, match="not a model"):
        follow_loading(failing(), status)
    assert status.texts[-1] == "(cleared)"
