"""Decode speed at context lengths of 1K to 128K tokens, relative to 1K.

Four layers of the 35B, three of them with linear attention as in the whole model (zeros: the arithmetic is the same). A
prefill of 128K tokens would take hours on a CPU, so libllama restores a state in which the rows of 256 tokens are
repeated. The cost of a step does not depend on which tokens the cache holds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.benchmarks.figures import Figure, ratio
from tests.benchmarks.inputs import QWENCTL, make_input
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

_DEPTHS, _TOKENS, _ROWS = (1024, 8192, 32_768, 131_072), 12, 256
_U4, _HEAD = np.dtype("<u4"), 16
Bytes = npt.NDArray[np.uint8]


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of a few tokens at each depth, with a cache in f16 and in q8_0."""
    model = settings.folder / "model.gguf"
    source = make_input("sparse-4-layers", settings.folder)
    cost_of([QWENCTL, "quantize", source, "--type", "Q4_K_M", "--quiet", "-o", model])
    for cache in ("f16", "q8_0"):
        rates = _rates(settings, model, cache)
        for depth in _DEPTHS[1:]:
            what = f"decode after {depth:,} tokens, cache in {cache}"
            yield ratio(what, rates[depth], rates[_DEPTHS[0]], "tokens/s", None, "after 1,024")


def _rates(settings: Settings, model: Path, cache: str) -> dict[int, list[float]]:
    """Tokens per second at each depth, one value per round."""
    from qwenctl.engine.kv.snapshots import get_sequence_state
    from qwenctl.engine.llama.callbacks import CancelFlag, LlamaLog
    from qwenctl.engine.model import load_model
    from qwenctl.protocol.load import Load, LoadParams

    # With one thread, CPU time, which other users of the machine affect less.
    clock = time.process_time if settings.threads == 1 else time.perf_counter
    log = LlamaLog()
    loading = LoadParams(
        max(_DEPTHS) + 1024, settings.threads, cache_type_k=cache, cache_type_v=cache, flash_attention="on"
    )
    loaded = load_model(Load(str(model), loading), CancelFlag(), log, lambda _: None)
    sequence = loaded.sequence
    for _ in sequence.prefill(range(20, 20 + _ROWS), (), _ROWS):
        pass
    saved, state = sequence.export_state(), get_sequence_state(loaded.context)
    rates: dict[int, list[float]] = {depth: [] for depth in _DEPTHS}
    for _ in settings.rounds():
        for depth in _DEPTHS:
            sequence.restore(type(saved)([1] * depth, _deeper(state, depth), {}))
            sequence.decode(1)
            begin = clock()
            for _ in range(_TOKENS):
                sequence.decode(1)
            sequence.synchronize()
            rates[depth].append(_TOKENS / (clock() - begin))
    return rates


def _deeper(state: Bytes, depth: int) -> Bytes:
    """The state of `_ROWS` tokens with its rows repeated to `depth` (llama-kv-cache.cpp, `state_write`).

    The layout: a magic number, the sequence, streams, cells; for each cell its position and more; whether values are
    transposed, layers; for keys and then for values: type, bytes per row, rows. The recurrent state follows, with its
    own position.
    """
    cell = next(size for size in range(8, 64, 4) if _numbers(state, _HEAD + size * _ROWS, 2) == [0, 1])
    cells = np.tile(state[_HEAD : _HEAD + cell * _ROWS].reshape(_ROWS, cell), (depth // _ROWS, 1))
    cells[:, :4] = np.arange(depth, dtype=_U4).view(np.uint8).reshape(depth, 4)
    at = _HEAD + cell * _ROWS + 8
    parts = [state[: _HEAD - 4], np.array([depth], _U4).view(np.uint8), cells.ravel(), state[at - 8 : at]]
    for _ in ("keys", "values"):
        row = _numbers(state, at + 4, 1)[0]
        parts += [state[at : at + 12], np.tile(state[at + 12 : at + 12 + row * _ROWS], depth // _ROWS)]
        at += 12 + row * _ROWS
    recurrent = state[at:].copy()
    recurrent[4:8] = np.array([depth - 1], _U4).view(np.uint8)
    return np.concatenate([*parts, recurrent])


def _numbers(state: Bytes, at: int, count: int) -> list[int]:
    return [int(number) for number in state[at : at + 4 * count].copy().view(_U4)]
