"""Models loaded as by an engine, but in the process of a test marked `own_process`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.protocol.load import Load, LoadParams

if TYPE_CHECKING:
    from qwenctl.engine.llama.callbacks import LlamaLog
    from qwenctl.engine.model import LoadedModel


def loaded(path: Path, settings: LoadParams) -> LoadedModel:
    """The model at `path` and its context."""
    from qwenctl.engine.llama.callbacks import CancelFlag
    from qwenctl.engine.model import load_model

    return load_model(Load(str(path), settings), CancelFlag(), _log(), lambda _: None)


@functools.cache
def _log() -> LlamaLog:
    """The log shared by all models and never freed: libllama calls it as long as any model is in use."""
    from qwenctl.engine.llama.callbacks import LlamaLog

    return LlamaLog()
