"""An engine with a model in it, as settings say, for as long as something is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qwenctl.backend_check.check import require_backend
from qwenctl.engine.client import Engine
from qwenctl.files.paths import log_folder
from qwenctl.protocol.messages import EngineSettings, Loaded, LoadProgress
from qwenctl.terminal.streams import warn

Follow = Callable[[Iterator[LoadProgress | Loaded]], Loaded]


@contextmanager
def opened(path: Path, settings: EngineSettings, follow: Follow) -> Iterator[tuple[Engine, Loaded]]:
    """The engine and what it loaded; `follow` shows the progress. Raises QwenctlError."""
    with Engine.start(log_folder(), require_backend(tell=warn)) as engine:
        yield engine, follow(engine.load(path, settings))
