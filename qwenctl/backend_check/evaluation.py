"""Computes with the tiny model in the ways in which models are used, and compares the logits with the CPU's.

Runs in the child process. A `Subject` comes in, a `CaseResult` for each way goes out. The baseline (`Reference`) is the
plain path of the CPU: no extra buffer types, no device, each sequence alone, evaluated in one batch.
"""

from __future__ import annotations

import base64
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from qwenctl.backend_check.results import PLAIN, CaseResult, Subject
from qwenctl.backend_check.tiny_model import VOCABULARY
from qwenctl.machine.ggml import all_devices, library

GOLDEN_POSITION = 47  # a position in the first of the `sequences`
# The known logits [VOCABULARY]: float16, little-endian, in base 85.
_LOGITS = (
    "hsxH!Ou7KgX~927D9)D4H_zhAAIp2k$H=?JPeun(ltfa{-^gIjS4cy?IZO%4@JY2uHcmIizQ~Y61-*$(J;|3&x=xWwM^Gw763r#S"
    "ib{Mq3QX)s#LBqFug2j`E6N^3;Xn?_K0Tn#g~hkJ3Qlg$sl+?Uy3D4x4^TT#qDs9^fXGwOi$g@dm(B-IWys^riAr|ARL{6V3`Fe8"
    "SITM1DL{@ymq{B)8%T6ES4|dAG)_E6H_wH}nZ^anH^ekcPszl}%gZrFOh0i<+{Ww3j68Bp3&sf2CP%){?Myn#y*#K+5lI9~K*!L;"
    "S49oWR?tMyLO>-*wLN~$22O8Dfk|!06VFOe$x3!k1<CwJYfK7EpD|KP_{{9V+|F>o|HQjaEKGJyw@q14{6g|bbh7<SjX9*r+d`Mg"
    "P{mrrJxSO{ZAA7*%T2XVjy4iV@kmBMA4znr>CE3wv_Mu)2TmqWLCUH`b4lO3(nyxh13q}l-9)LyUd<6d?a8jf*-gmBlEFaD^vjXV"
    "4@m=1qs$%1T}TJUEzMR(j72oVe#yB`^-Up0R?Xv08ANT&md!}a|H$^s@=Nc}vB)vNw97V4p~|?se^7zHX2JtX7Emn8h|RUdSV`Wr"
    "X*7q%g20SVX-4<NcuVX`T+V6Av`b~l(#)vBkH`(iKE@Hy07&je-$rZ6&&^#&15H6qNzr6b7s?bwsYMIK9LX5XTgG5d9Lv?cP{>cu"
    "(na)3mr5zeR7`3;D9cvBAIDTrph=TROU9YPP|csji9Zp-_DXcdEzAx{ue)HyfWc5qJ<JbLNz6#aw9NHN2~A_dk4A3Dxyx71_&VXn"
)


def golden_logits() -> npt.NDArray[np.float32]:
    """The known logits [VOCABULARY] at `GOLDEN_POSITION`."""
    return np.frombuffer(base64.b85decode(_LOGITS), "<f2").astype(np.float32)


Logits = npt.NDArray[np.float32]  # [positions, VOCABULARY]

_SEQUENCES = 4
_LONG, _SHORT = 100, 24  # tokens in the first sequence, and in the others
_PROMPTS = (2, 3, 17, 48, _LONG)  # lengths around kernels' tile sizes, and more than one chunk of linear attention
_TOGETHER = 8  # tokens of each sequence in the first batch, before more follow one by one
_STEPS = 4  # single tokens of each sequence after that
_ROUNDING = 2e-3  # the NMSE between two correct ways to round
_SINGLE = 12  # tokens evaluated one by one; each takes as long as a prompt
_TOKENS_EACH = 128
_ALL_LAYERS = 1 << 10
_EXTRA_BUFFERS = b"ggml_backend_dev_get_extra_bufts"

Part = tuple[int, int, Sequence[int]]
"""Sequence, position of the first token, tokens."""
Reference = Sequence[Logits]
"""The logits of each sequence, evaluated alone."""


class NotComputed(Exception):
    """llama.cpp reports an error: why."""


@dataclass(frozen=True)
class Case:
    """A way of computing; `run` yields logits [positions, VOCABULARY], with their sequence and first position."""

    name: str
    run: Callable[[Context], Iterator[tuple[int, int, Logits]]]


class Context:
    """The tiny model on a subject, with a context of several sequences. Use it in a `with` statement."""

    def __init__(self, model: Path, subject: Subject, threads: int) -> None:
        """Raises NotComputed if it cannot be loaded."""
        params = llama.llama_model_default_params()
        devices = _devices(subject)
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
        params.n_gpu_layers = _ALL_LAYERS if subject.kind == "device" else 0
        params.use_extra_bufts = subject.kind == "extra"
        self._model = llama.llama_model_load_from_file(os.fsencode(model), params)
        if self._model is None:
            raise NotComputed("cannot load the model")
        self._context = llama.llama_init_from_model(self._model, _context_params(threads))
        if self._context is None:
            raise NotComputed("cannot create a context")
        self._batch = llama.llama_batch_init(_SEQUENCES * _TOKENS_EACH, 0, 1)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def evaluate(self, parts: Sequence[Part]) -> list[Logits]:
        """Evaluate these parts in one batch; return the logits of each. Raises NotComputed."""
        batch, row = self._batch, 0
        for sequence, position, tokens in parts:
            for number, token in enumerate(tokens):
                batch.token[row], batch.pos[row], batch.logits[row] = token, position + number, True
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
                row += 1
        batch.n_tokens = row
        status = llama.llama_decode(self._context, batch)
        if status:
            raise NotComputed(f"llama_decode failed ({status})")
        logits = np.stack([self._logits(at) for at in range(row)])
        return np.split(logits, np.cumsum([len(tokens) for _, _, tokens in parts])[:-1])

    def move_state(self, source: int, target: int) -> None:
        """Move the state of the sequence `source` to `target`, through a cleared context. Raises NotComputed."""
        size = llama.llama_state_seq_get_size(self._context, source)
        state = (ctypes.c_uint8 * size)()
        if llama.llama_state_seq_get_data(self._context, state, size, source) != size:
            raise NotComputed("cannot export the state")
        self.clear()
        if llama.llama_state_seq_set_data(self._context, state, size, target) != size:
            raise NotComputed("cannot restore the state")

    def clear(self) -> None:
        """Empty all sequences."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)

    def _logits(self, row: int) -> Logits:
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, row), (VOCABULARY,)).copy()


def _context_params(threads: int) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = _SEQUENCES * _TOKENS_EACH
    params.n_seq_max, params.kv_unified = _SEQUENCES, False
    params.n_threads = params.n_threads_batch = threads
    params.no_perf = True
    return params


def _devices(subject: Subject) -> Any:
    """A null-terminated list of devices for libllama. Raises NotComputed if the device is missing."""
    if subject.kind != "device":
        return (ctypes.c_void_p * 1)()
    ggml = library()
    for device in all_devices(ggml):
        if ggml.ggml_backend_dev_name(device).decode("utf-8", "replace") == subject.name:
            return (ctypes.c_void_p * 2)(device)
    raise NotComputed("the device is gone")


def extra_buffer_types() -> tuple[str, ...]:
    """The names of the CPU's extra buffer types, such as AMX and CPU_REPACK."""
    ggml = library()
    ggml.ggml_backend_buft_name.restype, ggml.ggml_backend_buft_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    names: list[str] = []
    for device in all_devices(ggml):
        registry = ggml.ggml_backend_dev_backend_reg(device)
        address = ggml.ggml_backend_reg_get_proc_address(registry, _EXTRA_BUFFERS)
        if not address:
            continue
        buffers = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
        number = 0
        while buffers and buffers[number]:
            names.append(ggml.ggml_backend_buft_name(buffers[number]).decode("utf-8", "replace"))
            number += 1
    return tuple(dict.fromkeys(names))


def make_sequences() -> list[list[int]]:
    """The tokens to evaluate, one list per sequence."""
    raw = np.random.PCG64(7).random_raw(_SEQUENCES * _LONG).reshape(_SEQUENCES, _LONG)  # identical in every NumPy
    tokens = (raw >> np.uint64(33)) % np.uint64(VOCABULARY)
    return [[int(token) for token in row[: _SHORT if number else _LONG]] for number, row in enumerate(tokens)]


def compute_reference(context: Context) -> Reference:
    """The baseline: the plain path's logits of each sequence alone. Raises NotComputed."""
    logits = []
    for number, tokens in enumerate(make_sequences()):
        logits += context.evaluate([(number, 0, tokens)])
        context.clear()
    return logits


def make_cases(subject: Subject) -> tuple[Case, ...]:
    """The ways of computing to try for a subject."""
    ways = [Case("one token at a time", _one_by_one)]
    ways += [Case(f"a prompt of {length} tokens", _prompt(length)) for length in _PROMPTS]
    ways += [Case(f"{count} sequences at once", _parallel(count)) for count in (2, _SEQUENCES)]
    ways += [Case("a restored state", _restored_state)]
    return (Case("known values", _known_values), *ways) if subject == PLAIN else tuple(ways)


def compare(case: Case, context: Context, expected: Reference) -> CaseResult:
    """Compute in one way, and compare with the baseline."""
    context.clear()
    worst, same = 0.0, True
    try:
        for sequence, position, logits in case.run(context):
            target = expected[sequence][position : position + len(logits)]
            if case.run is _known_values:
                target = golden_logits()[None]
            if not np.isfinite(logits).all():
                return CaseResult(case.name, error="values that are not finite")
            # NMSE of each position.
            errors = _mean_squares(logits - target) / _mean_squares(target)
            worst = max(worst, float(errors.max()))
            same = same and _top_tokens_agree(logits, target)
    except NotComputed as error:
        return CaseResult(case.name, error=str(error))
    return CaseResult(case.name, worst, same)


def _mean_squares(values: Logits) -> npt.NDArray[np.float64]:
    """The mean square of each row, [positions], in float64."""
    means: npt.NDArray[np.float64] = (values.astype(np.float64) ** 2).mean(axis=1)
    return means


def _top_tokens_agree(logits: Logits, expected: Logits) -> bool:
    """Whether each most likely token is the expected one, or nearly as likely, so that rounding may put it first."""
    chosen = np.take_along_axis(expected, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    slack = 4 * np.sqrt(_ROUNDING * _mean_squares(expected))
    return bool((chosen >= expected.max(axis=1) - slack).all())


def _known_values(context: Context) -> Iterator[tuple[int, int, Logits]]:
    [logits] = context.evaluate([(0, 0, make_sequences()[0][: GOLDEN_POSITION + 1])])
    yield 0, GOLDEN_POSITION, logits[-1:]


def _one_by_one(context: Context) -> Iterator[tuple[int, int, Logits]]:
    for position, token in enumerate(make_sequences()[1][:_SINGLE]):
        [logits] = context.evaluate([(1, position, [token])])
        yield 1, position, logits


def _prompt(length: int) -> Callable[[Context], Iterator[tuple[int, int, Logits]]]:
    def run(context: Context) -> Iterator[tuple[int, int, Logits]]:
        [logits] = context.evaluate([(0, 0, make_sequences()[0][:length])])
        yield 0, 0, logits

    return run


def _parallel(count: int) -> Callable[[Context], Iterator[tuple[int, int, Logits]]]:
    """Several sequences in one batch, then one token of each per batch."""

    def run(context: Context) -> Iterator[tuple[int, int, Logits]]:
        numbers, tokens = range(count), make_sequences()
        starts = context.evaluate([(number, 0, tokens[number][:_TOGETHER]) for number in numbers])
        yield from ((number, 0, logits) for number, logits in enumerate(starts))
        for position in range(_TOGETHER, _TOGETHER + _STEPS):
            steps = context.evaluate([(number, position, [tokens[number][position]]) for number in numbers])
            yield from ((number, position, logits) for number, logits in enumerate(steps))

    return run


def _restored_state(context: Context) -> Iterator[tuple[int, int, Logits]]:
    tokens, middle = make_sequences()[2], _SHORT // 2
    context.evaluate([(2, 0, tokens[:middle])])
    context.move_state(2, 3)
    [logits] = context.evaluate([(3, middle, tokens[middle:])])
    yield 2, middle, logits
