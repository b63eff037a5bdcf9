"""A GPU-type device without a GPU: llama.cpp's RPC server on loopback, in a child process, with simulated memory.

`rpc_server(memory)` gives the endpoint of a server whose device reports `memory` bytes and, like a GPU driver, refuses
allocations beyond `enforced` bytes. `python -m tests.support.rpc_server PORT MEMORY ENFORCED` is the child.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.paths import ROOT

_START_SECONDS = 30.0


@contextmanager
def rpc_server(memory: int, *, enforced: int | None = None) -> Iterator[str]:
    """The endpoint (host:port) of a server whose one device has `memory` bytes; it is stopped with the context.

    A smaller `enforced` simulates another program that took the rest of the memory after the inspection.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.rpc_server",
            str(port),
            str(memory),
            str(memory if enforced is None else enforced),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(child, port)
        yield f"127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


def _wait_for(child: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the RPC server did not start (exit code {child.poll()})")


_P, _N = ctypes.c_void_p, ctypes.c_size_t
_Numbers = ctypes.POINTER(_N)
_GetMemory = ctypes.CFUNCTYPE(None, _P, _Numbers, _Numbers)
_Allocate = ctypes.CFUNCTYPE(_P, _P, _N)
_Free = ctypes.CFUNCTYPE(None, _P)


class _Beginning(ctypes.Structure):
    """The first three functions of a ggml-backend-impl.h struct: device, buffer type or buffer."""

    _fields_ = (("first", _P), ("second", _P), ("third", _P))


class Meter:
    """Counts allocations of a device's memory, and refuses those beyond `enforced` bytes."""

    def __init__(self, memory: int, enforced: int) -> None:
        self.memory, self.enforced = memory, enforced
        self.sizes: dict[int, int] = {}
        self._saved: list[object] = []  # keeps the callbacks alive: ggml holds only their addresses

    def watch(self, device: int, buffer_type: int) -> None:
        """Replace the functions of a device and its buffers with counting ones."""
        types = _beginning(buffer_type)
        allocate = _Allocate(types.second)

        @_GetMemory
        def get_memory(_device: int, free: ctypes.Array[_N], total: ctypes.Array[_N]) -> None:
            free[0], total[0] = max(0, self.memory - sum(self.sizes.values())), self.memory

        @_Allocate
        def counted(which: int, size: int) -> int | None:
            if sum(self.sizes.values()) + size > self.enforced:
                return None
            buffer: int | None = allocate(which, size)
            if buffer:
                self._count(buffer, size)
            return buffer

        _beginning(device).third = ctypes.cast(get_memory, _P)
        types.second = ctypes.cast(counted, _P)
        self._saved += [get_memory, counted]

    def _count(self, buffer: int, size: int) -> None:
        functions = _beginning(buffer)
        free = _Free(functions.first) if functions.first else None

        @_Free
        def counted(which: int) -> None:
            self.sizes.pop(which, None)
            if free is not None:
                free(which)

        functions.first = ctypes.cast(counted, _P)
        self.sizes[buffer] = size
        self._saved.append(counted)


def _beginning(address: int) -> _Beginning:
    return ctypes.cast(address, ctypes.POINTER(_Beginning)).contents


def serve(port: int, memory: int, enforced: int) -> None:
    """Serve the CPU as a device of `memory` bytes until the process is ended."""
    from qwenctl.machine.ggml import all_devices, rpc_library

    ggml = rpc_library()
    device = all_devices(ggml)[-1]
    ggml.ggml_backend_dev_buffer_type.restype, ggml.ggml_backend_dev_buffer_type.argtypes = _P, [_P]
    meter = Meter(memory, enforced)
    meter.watch(device, ggml.ggml_backend_dev_buffer_type(device))
    devices = (_P * 1)(device)
    ggml.ggml_backend_rpc_start_server(f"127.0.0.1:{port}".encode(), None, 1, 1, devices)


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
