"""What can be told of devices without asking ggml: was it built for any, and do RPC servers answer?

It takes no time, so that a load for which there is nothing to plan is not made slower by it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qwenctl.errors import ExitCode, QwenctlError

_ANSWER_SECONDS = 5.0
_LIBRARIES_WITHOUT_GPU = ("libggml-base", "libggml-cpu", "libggml-rpc", "libggml-blas")


def can_have_gpus() -> bool:
    """Whether the installed llama.cpp was built for GPUs, by the names of its libraries: it takes no time to ask."""
    package = find_spec("llama_cpp")
    folders = package.submodule_search_locations if package is not None else None
    libraries = [path for folder in folders or () for path in Path(folder, "lib").glob("*ggml-*")]
    return any(not path.name.startswith(_LIBRARIES_WITHOUT_GPU) for path in libraries)


def check_servers(endpoints: Sequence[str]) -> None:
    """Raise QwenctlError unless something answers at each of these RPC servers (host:port)."""
    for endpoint in endpoints:
        host, separator, port = endpoint.rpartition(":")
        if not separator or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise QwenctlError(f"'{endpoint}' is not HOST:PORT", "--rpc 127.0.0.1:50052")
        try:
            socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            hint = "`qwenctl worker` must run there, and its port be in reach"
            raise QwenctlError(f"{endpoint} does not answer ({why})", hint, ExitCode.NETWORK) from error
