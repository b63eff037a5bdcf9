"""A question about an image against libmtmd's helpers, and a second question against encoding the image again.

The toy model and its vision encoder; a new image of 1,024 tokens each time, whose file both sides read, decode and
resize. Loading is not counted.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from qwenctl.engine.client import Engine
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import Generate, GenerationFinished, Message, Sampling
from tests.benchmarks.figures import Figure, at_least, at_most, ratio
from tests.benchmarks.inputs import QWENCTL
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

_TOY = Path(__file__).resolve().parent.parent / "data" / "toy"
_SIDE, _CONTEXT = 1024, 4096
_WHAT, _ANOTHER = "What is in the picture?", "What colour is it?"


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds with a new image each: our first question, our second one, and one by the helpers."""
    model = settings.folder / "toy.gguf"
    cost_of([QWENCTL, "quantize", _TOY, "--type", "Q8_0", "--quiet", "-o", model])
    [mmproj] = settings.folder.glob("mmproj*")
    command = [sys.executable, "-m", "tests.benchmarks.mtmd_reading", model, mmproj, settings.threads, _CONTEXT]
    first, again, theirs = [], [], []
    with (
        Engine.start(settings.folder) as engine,
        subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as helpers,
    ):
        assert helpers.stdin is not None
        assert helpers.stdout is not None
        list(engine.load(model, LoadParams(_CONTEXT, settings.threads)))
        engine.configure_vision(VisionSettings(str(mmproj)))
        for number in settings.rounds():
            path = _picture(settings.folder, number)
            first.append(_first_token(engine, path, _WHAT))
            again.append(_first_token(engine, path, _ANOTHER))
            print(path, file=helpers.stdin, flush=True)
            theirs.append(float(helpers.stdout.readline()))
        helpers.stdin.close()
    yield ratio("a question about a new picture", first, theirs, "s", at_most(1.05), "libmtmd's helpers")
    yield ratio("another question about it", first, again, "s", at_least(20), "looking again")


def _picture(folder: Path, number: int) -> Path:
    noise = np.random.default_rng(number).integers(0, 256, (_SIDE // 8, _SIDE // 8, 3), np.uint8)
    path = folder / f"{number}.png"
    Image.fromarray(noise).resize((_SIDE, _SIDE)).save(path)
    return path


def _first_token(engine: Engine, path: Path, question: str) -> float:
    media = Media("image", str(path), hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
    asked = (Message("user", question, media=(media,)),)
    *_, finished = engine.generate(Generate(asked, False, Sampling(temperature=0, presence_penalty=0), 1))
    assert isinstance(finished, GenerationFinished)
    return finished.timings.first_token_s
