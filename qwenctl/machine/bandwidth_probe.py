"""The child process that measures memories: `python -m qwenctl.machine.bandwidth_probe THREADS BYTES [HOST:PORT ...]`.

It prints a line of JSON for each device, the CPU first, with the bytes/s that the device reads from its own memory and
that are copied to it from RAM. If a driver ends the process, the lines printed before are still valid.

Method. Reading: ggml multiplies a matrix of float32 by a vector, as decoding a token does, with a matrix several times
as large as a CPU's caches and with the threads used for decoding; every byte is read once. The best of several passes
counts, since a disturbed pass says nothing about the memory. Copying: `ggml_backend_tensor_set` from memory pinned by
the device's driver, if it offers any, and then a few bytes back, so that the transfer is complete.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from qwenctl.machine.ggml import InitParams, add_rpc_servers, all_devices, device_info, library, set_threads

_F32, _F32_BYTES = 0, 4  # enum ggml_type
_COLUMNS = 4096
_META_BYTES = 1 << 20  # the structures of a few tensors and a small graph
_FILL = 0x3C  # 0.0115 as float32; untouched pages would all map to one zero page, and cost nothing to read
_PASSES, _SECONDS = 32, 0.4  # per measurement, whichever is reached first
_MIN_BYTES, _COPY_BYTES = 1 << 24, 1 << 26  # copying takes a tenth of a second over a 5 Gbit/s network
_UNKNOWN: dict[str, float | None] = {"bandwidth": None, "copy_rate": None}


def measure(device: Any, threads: int, n_bytes: int) -> dict[str, float | None]:
    """The `bandwidth` and `copy_rate` of a device, in bytes/s; None if it lacks the operation or the memory."""
    ggml = library()
    backend = ggml.ggml_backend_dev_init(device, None) if n_bytes >= _MIN_BYTES else None
    if not backend:
        return dict(_UNKNOWN)
    set_threads(ggml, device, backend, threads)
    context = ggml.ggml_init(InitParams(_META_BYTES, None, True))
    matrix, product = _product(ggml, device, context, n_bytes)
    if not product:
        return dict(_UNKNOWN)
    graph = ggml.ggml_new_graph(context)
    ggml.ggml_build_forward_expand(graph, product)
    buffer = ggml.ggml_backend_alloc_ctx_tensors(context, backend)
    if not buffer:
        return dict(_UNKNOWN)
    # Write every page once; reading the result back, below, waits until the computation is finished.
    ggml.ggml_backend_buffer_clear(buffer, _FILL)
    result = ctypes.create_string_buffer(_F32_BYTES)

    def read() -> None:
        ggml.ggml_backend_graph_compute(backend, graph)
        ggml.ggml_backend_tensor_get(product, result, 0, _F32_BYTES)

    size = ggml.ggml_nbytes(matrix)
    copy_bytes = min(size, _COPY_BYTES)
    bandwidth = size / _best_seconds(read)
    copy_rate = copy_bytes / _best_seconds(_copy(ggml, device, matrix, copy_bytes))
    ggml.ggml_backend_buffer_free(buffer)
    ggml.ggml_free(context)
    ggml.ggml_backend_free(backend)
    return {"bandwidth": bandwidth, "copy_rate": copy_rate}


def _product(ggml: Any, device: Any, context: Any, n_bytes: int) -> tuple[Any, Any]:
    """A matrix of at most `n_bytes` bytes and its product with a vector; None for both if the device cannot compute it.

    A driver may limit the size of a kernel's input: Vulkan only guarantees 128 MiB.
    """
    while n_bytes >= _MIN_BYTES:
        matrix = ggml.ggml_new_tensor_2d(context, _F32, _COLUMNS, n_bytes // (_COLUMNS * _F32_BYTES))
        vector = ggml.ggml_new_tensor_2d(context, _F32, _COLUMNS, 1)
        product = ggml.ggml_mul_mat(context, matrix, vector)
        if ggml.ggml_backend_dev_supports_op(device, product):
            return matrix, product
        n_bytes //= 2
    return None, None


def _copy(ggml: Any, device: Any, matrix: Any, size: int) -> Callable[[], None]:
    """A function that copies `size` bytes to the matrix on its device, and waits until they have arrived."""
    pinned = ggml.ggml_backend_dev_host_buffer_type(device)
    buffer = ggml.ggml_backend_buft_alloc_buffer(pinned, size) if pinned else None
    memory = ctypes.create_string_buffer(0 if buffer else size)
    source = ctypes.c_void_p(ggml.ggml_backend_buffer_get_base(buffer)) if buffer else memory
    ctypes.memset(source, _FILL, size)
    readback = ctypes.create_string_buffer(_F32_BYTES)

    def copy() -> None:
        ggml.ggml_backend_tensor_set(matrix, source, 0, size)
        ggml.ggml_backend_tensor_get(matrix, readback, size - _F32_BYTES, _F32_BYTES)

    return copy


def _best_seconds(work: Callable[[], None]) -> float:
    """The duration of the fastest of several passes, in seconds, after one pass for warm-up."""
    work()
    best, started = float("inf"), time.perf_counter()
    for _ in range(_PASSES):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - started > _SECONDS:
            break
    return best


def _main(threads: int, n_bytes: int, rpc: list[str]) -> None:
    ggml = library()
    add_rpc_servers(rpc)
    devices = [(device_info(ggml, device), device) for device in all_devices(ggml)]
    for info, device in sorted(devices, key=lambda pair: pair[0]["kind"] != "cpu"):
        size = min(n_bytes, info["free_bytes"] // 2) if info["kind"] != "accelerator" else 0
        print(json.dumps({**info, **measure(device, threads, size)}), flush=True)  # noqa: T201 - what this is for


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
