"""The child process that asks ggml what it was built for and which devices there are.

`python -m qwenctl.machine.device_probe [HOST:PORT ...]` prints JSON. libllama is loaded here and never in the program
itself: a driver that fails ends this process only.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from qwenctl.machine.ggml import RpcUnavailable, add_rpc_servers, all_devices, backends, device_info, library


def list_devices(rpc: list[str]) -> dict[str, Any]:
    """The backends of the build, the features of its CPU backend, and every device. Raises RpcUnavailable."""
    from llama_cpp import llama_cpp

    ggml = library()
    built = backends(ggml)
    add_rpc_servers(rpc)
    return {
        "backends": built,
        "features": cpu_features(llama_cpp.llama_print_system_info().decode("utf-8", "replace")),
        "devices": [device_info(ggml, device) for device in all_devices(ggml)],
    }


def cpu_features(info: str) -> list[str]:
    """The features of the CPU backend in llama.cpp's line "CPU : SSE3 = 1 | AVX2 = 1 | CUDA : ..."."""
    match = re.search(r"CPU : ((?:\w+ = \d+ \| ?)*)", info)
    return [name for name, value in re.findall(r"(\w+) = (\d+)", match[1] if match else "") if value != "0"]


if __name__ == "__main__":
    try:
        json.dump(list_devices(sys.argv[1:]), sys.stdout)
    except RpcUnavailable:
        sys.exit("llama.cpp is built without RPC")
