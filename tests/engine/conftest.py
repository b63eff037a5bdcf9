"""Fixtures shared by the engine tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import Start, engines


@pytest.fixture
def start(toy_gguf: Path, tmp_path: Path) -> Iterator[Start]:
    """Start engines with the toy model; they are closed when the test ends."""
    with engines(toy_gguf, tmp_path, context_tokens=2048) as started:
        yield started
