"""Engines with the toy model, for tests that need several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qwenctl.engine.client import Engine
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.messages import Generate, Message, Sampling

SETTINGS = LoadParams(context_tokens=65_536, threads=1, batch_tokens=256)
# A prompt that takes minutes to evaluate.
LONG = Generate((Message("user", "word " * 20_000),), False, Sampling(temperature=0, presence_penalty=0))
Start = Callable[..., Engine]


@contextmanager
def engines(model: Path, logs: Path, context_tokens: int) -> Iterator[Start]:
    """A function that starts engines with `model`; it takes fields of LoadParams. All engines end with the context."""
    with ExitStack() as running:

        def start(**settings: int) -> Engine:
            engine = running.enter_context(Engine.start(logs))
            list(engine.load(model, LoadParams(context_tokens=context_tokens, threads=1, **settings)))
            return engine

        yield start
