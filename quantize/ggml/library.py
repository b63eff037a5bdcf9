"""The arithmetic of ggml: widening to float32 and quantizing rows, by the installed library's own functions.

The only module that opens a shared library. It finds libggml-base beside the llama_cpp package without importing that
package (whose import costs half a second and starts libllama). ctypes releases the GIL during each call, so that
threads work side by side. Signatures: ggml/include/ggml.h.
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
from quantize.ggml.types import GGMLType

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@cache
def _library() -> ctypes.CDLL:
    name = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
    spec = find_spec("llama_cpp")
    path = Path(spec.origin).parent / "lib" / name if spec and spec.origin else Path(name)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise QuantizeError(f"cannot open {name}: {error}", "pip install --force-reinstall llama-cpp-python") from error
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    for name in ("ggml_bf16_to_fp32_row", "ggml_fp16_to_fp32_row"):
        getattr(library, name).argtypes = [pointer, pointer, count]
        getattr(library, name).restype = None
    return library


def library_version() -> str:
    """The version of the package that the library comes with; the same version gives the same bytes."""
    return version("llama-cpp-python")


def to_float32(dtype: str, raw: Bytes, floats: Floats) -> None:
    """Write the weights in `raw`, of the safetensors type `dtype` (F32, F16, BF16), to `floats`."""
    if dtype == "F32":
        floats[:] = raw.view(np.float32)
        return
    function: Any = _library().ggml_bf16_to_fp32_row if dtype == "BF16" else _library().ggml_fp16_to_fp32_row
    function(raw.ctypes.data, floats.ctypes.data, floats.size)


def quantize_rows(kind: GGMLType, floats: Floats, packed: Bytes, importance: Floats | None) -> None:
    """Quantize `floats` [rows, row length], all finite, to `packed`, which has room for exactly these rows.

    `importance` [row length] weighs the columns.
    """
    rows, length = floats.shape
    weights = importance.ctypes.data if importance is not None else None
    quantize = _library().ggml_quantize_chunk
    written = quantize(kind.id, floats.ctypes.data, packed.ctypes.data, 0, rows, length, weights)
    if written != packed.size:
        raise QuantizeError(f"ggml wrote {written} bytes of {kind.name}, {packed.size} expected")


def is_finite(kind: GGMLType, packed: Bytes) -> bool:
    """Whether all weights are finite. Slow; but ggml's own check misses some and writes to standard error."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(gguf.dequantize(packed, gguf.GGMLQuantizationType(kind.id))).all())
