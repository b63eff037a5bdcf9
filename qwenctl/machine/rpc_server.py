"""The child process that serves devices: `python -m qwenctl.machine.rpc_server ADDRESS:PORT THREADS DEVICE ...`.

It serves until it is ended, or until its standard input closes, which happens when the program that started it exits.
llama.cpp reports its devices, and when a client connects or disconnects, on standard output.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading

from qwenctl.machine.ggml import all_devices, device_info, rpc_library
from qwenctl.machine.llama_process import errors_end_the_process


def serve(endpoint: str, threads: int, names: list[str]) -> None:
    """Serve the devices `names` at `endpoint`; returns only if that fails."""
    ggml = rpc_library()
    by_name = {device_info(ggml, device)["name"]: device for device in all_devices(ggml)}
    devices = (ctypes.c_void_p * len(names))(*(by_name[name] for name in names))
    ggml.ggml_backend_rpc_start_server(endpoint.encode(), None, threads, len(names), devices)


def _end_with_the_program() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_program, daemon=True).start()
    with errors_end_the_process():
        serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
        raise RuntimeError("the server has ended")
