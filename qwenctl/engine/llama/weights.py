"""Loads the weights of a model: a path and libllama's parameters come in, its model goes out.

A model whose MTP block is incomplete is loaded without it (`qwenctl.models.mtp_block`).
"""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from quantize.errors import QuantizeError
from qwenctl.engine.llama.callbacks import CancelFlag, LlamaLog
from qwenctl.models.gguf_check import split_files
from qwenctl.models.mtp_block import IncompleteMtp, read_incomplete_mtp, write_stand_in


@dataclass(frozen=True)
class Weights:
    """A model of libllama, its bytes and its number of parameters; `has_mtp` if it has an MTP block to draft with."""

    pointer: llama.llama_model_p
    n_bytes: int
    parameters: int
    has_mtp: bool


def load_weights(path: str, params: Any, log: LlamaLog, interrupt: CancelFlag | None = None) -> Weights | None:
    """Load the model at `path` with `params` (llama_model_params), which may be changed.

    None if that fails or `interrupt` is set; the log then has the reason.
    """
    pointer = llama.llama_model_load_from_file(os.fsencode(path), params)
    if pointer is not None:
        return _weights(pointer, has_mtp=llama.llama_model_n_layer_nextn(pointer) > 0)
    block = None if interrupt else _incomplete_mtp(Path(path))
    if block is None:
        return None
    log.clear()  # of why the first try failed
    with tempfile.TemporaryDirectory(prefix="qwenctl-", ignore_cleanup_errors=True) as folder:
        stand_in = Path(folder) / "mtp.gguf"
        claimed = write_stand_in(stand_in, block)
        params.load_mtp = False
        pointer = _load_splits([*split_files(Path(path)), stand_in], block, params)
    if pointer is None:
        return None
    elements = sum(map(math.prod, block.missing.values()))
    return _weights(pointer, has_mtp=False, claimed=claimed, elements=elements)


def _weights(pointer: llama.llama_model_p, *, has_mtp: bool, claimed: int = 0, elements: int = 0) -> Weights:
    """The model, without what a stand-in claims to have."""
    n_bytes, parameters = llama.llama_model_size(pointer), llama.llama_model_n_params(pointer)
    return Weights(pointer, n_bytes - claimed, parameters - elements, has_mtp)


def _incomplete_mtp(path: Path) -> IncompleteMtp | None:
    try:
        return read_incomplete_mtp(split_files(path))
    except (QuantizeError, OSError):
        return None


def _load_splits(files: list[Path], block: IncompleteMtp, params: Any) -> llama.llama_model_p | None:
    """The model in `files`, of which the last one is none of its own: the numbers of its split keys are replaced."""
    overrides = _overrides(
        {"split.no": 0, "split.count": len(files), "split.tensors.count": block.tensors + len(block.missing)}
    )
    params.kv_overrides = ctypes.cast(overrides, type(params.kv_overrides))
    paths = (ctypes.c_char_p * len(files))(*map(os.fsencode, files))
    load: Callable[[Any, int, Any], llama.llama_model_p | None] = llama.llama_model_load_from_splits
    pointer = load(paths, len(files), params)
    params.kv_overrides = None
    return pointer


def _overrides(numbers: Mapping[str, int]) -> Any:
    """An array of llama_model_kv_override for whole numbers; one without a key ends it."""
    array = (llama.llama_model_kv_override * (len(numbers) + 1))()
    for one, (key, number) in zip(array, numbers.items(), strict=False):
        one.tag, one.key, one.value.val_i64 = llama.LLAMA_KV_OVERRIDE_TYPE_INT, key.encode(), number
    return array
