"""Decode and prefill tokens per second of an engine: `... MODEL THREADS PROMPT_TOKENS SECONDS`.

With 0 threads the engine chooses. Each is measured for SECONDS and printed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from qwenctl.engine.client import Engine
from qwenctl.protocol.load import LoadParams

_TOKENS = 48  # tokens decoded in each measurement


def _main(model: str, threads: int, prompt: int, seconds: float) -> None:
    settings = LoadParams(context_tokens=1024, threads=threads, adapts_threads=not threads)
    with tempfile.TemporaryDirectory() as folder, Engine.start(Path(folder)) as engine:
        list(engine.load(Path(model), settings))
        engine.measure(prompt=prompt, generate=2)
        print(_rate(engine, seconds, generate=_TOKENS), _rate(engine, seconds, prompt=prompt))


def _rate(engine: Engine, seconds: float, *, generate: int = 0, prompt: int = 0) -> float:
    tokens, spent, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        spent += engine.measure(generate=generate, prompt=prompt)
        tokens += generate + prompt
    return tokens / spent


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
