"""Bindings to ggml's own functions for converting rows to float32 and quantizing them.

This is the only module that opens a shared library. It finds libggml-base in the llama_cpp package without importing
that package, which would take half a second and start libllama. ctypes releases the GIL during each call, so worker
threads run in parallel. Signatures: ggml/include/ggml.h.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from quantize.errors import QuantizeError
from quantize.ggml.iq3_s import move_sub_blocks
from quantize.ggml.types import GGMLType

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@cache
def _load_library() -> ctypes.CDLL:
    """Load libggml-base and declare its functions. Raises QuantizeError."""
    name = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
    spec = find_spec("llama_cpp")
    path = Path(spec.origin).parent / "lib" / name if spec and spec.origin else Path(name)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise QuantizeError(f"cannot open {name}: {error}", "pip install --force-reinstall llama-cpp-python") from error
    # Without argtypes ctypes would pass counts and addresses as 32-bit ints.
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    for name in ("ggml_bf16_to_fp32_row", "ggml_fp16_to_fp32_row"):
        getattr(library, name).argtypes = [pointer, pointer, count]
        getattr(library, name).restype = None
    return library


def library_version() -> str:
    """The version of the package that contains the library; the same version produces the same bytes."""
    return version("llama-cpp-python")


def to_float32(dtype: str, raw: Bytes, floats: Floats) -> None:
    """Convert the bytes `raw` [elements * size of dtype] of the safetensors `dtype` (F32, F16 or BF16) to `floats`."""
    if dtype == "F32":
        floats[:] = raw.view(np.float32)
        return
    function: Any = _load_library().ggml_bf16_to_fp32_row if dtype == "BF16" else _load_library().ggml_fp16_to_fp32_row
    function(raw.ctypes.data, floats.ctypes.data, floats.size)


def quantize_rows(ggml_type: GGMLType, floats: Floats, packed: Bytes, importance: Floats | None) -> None:
    """Quantize `floats` [rows, row length], all finite, into `packed` [rows * row bytes].

    `importance` [row length] weights the columns. Raises QuantizeError if ggml writes another number of bytes.
    """
    rows, length = floats.shape
    weights = importance.ctypes.data if importance is not None else None
    quantize = _load_library().ggml_quantize_chunk
    written = quantize(ggml_type.id, floats.ctypes.data, packed.ctypes.data, 0, rows, length, weights)
    if written != packed.size:
        raise QuantizeError(f"ggml wrote {written} bytes of {ggml_type.name}, {packed.size} expected")
    if ggml_type.name == "IQ3_S":
        move_sub_blocks(floats, packed)


def is_finite(ggml_type: GGMLType, packed: Bytes) -> bool:
    """Whether all weights in `packed` are finite.

    This is slow, but ggml's own check misses some cases and writes to standard error.
    """
    with np.errstate(all="ignore"):
        return bool(np.isfinite(gguf.dequantize(packed, gguf.GGMLQuantizationType(ggml_type.id))).all())
