"""ggml's functions for devices, buffers and graphs, typed; only for child processes.

They are looked up through libllama's own handle: a library opened by its path would have its own registry, unknown to
libllama.
"""

from __future__ import annotations

import ctypes
from typing import Any

_P, _N, _S = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
_DEVICE_TYPES = ("cpu", "gpu", "igpu", "accelerator")  # enum ggml_backend_dev_type, ggml-backend.h


class InitParams(ctypes.Structure):
    """struct ggml_init_params of ggml.h."""

    _fields_ = (("mem_size", _N), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


# Results and arguments, from ggml.h, ggml-backend.h, ggml-alloc.h and ggml-rpc.h.
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_P, [InitParams]),
    "ggml_free": (None, [_P]),
    "ggml_new_tensor_2d": (_P, [_P, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_nbytes": (_N, [_P]),
    "ggml_new_graph": (_P, [_P]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_backend_alloc_ctx_tensors": (_P, [_P, _P]),
    "ggml_backend_buffer_clear": (None, [_P, ctypes.c_uint8]),
    "ggml_backend_buffer_free": (None, [_P]),
    "ggml_backend_buffer_get_base": (_P, [_P]),
    "ggml_backend_buft_alloc_buffer": (_P, [_P, _N]),
    "ggml_backend_tensor_set": (None, [_P, _P, _N, _N]),
    "ggml_backend_tensor_get": (None, [_P, _P, _N, _N]),
    "ggml_backend_graph_compute": (ctypes.c_int, [_P, _P]),
    "ggml_backend_synchronize": (None, [_P]),
    "ggml_backend_free": (None, [_P]),
    "ggml_backend_register": (None, [_P]),
    "ggml_backend_reg_count": (_N, []),
    "ggml_backend_reg_get": (_P, [_N]),
    "ggml_backend_reg_name": (_S, [_P]),
    "ggml_backend_reg_get_proc_address": (_P, [_P, _S]),
    "ggml_backend_dev_count": (_N, []),
    "ggml_backend_dev_get": (_P, [_N]),
    "ggml_backend_dev_name": (_S, [_P]),
    "ggml_backend_dev_description": (_S, [_P]),
    "ggml_backend_dev_type": (ctypes.c_uint, [_P]),
    "ggml_backend_dev_memory": (None, [_P, _P, _P]),
    "ggml_backend_dev_init": (_P, [_P, _S]),
    "ggml_backend_dev_backend_reg": (_P, [_P]),
    "ggml_backend_dev_host_buffer_type": (_P, [_P]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_P, _P]),
}
_RPC_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_rpc_add_server": (_P, [_S]),
    "ggml_backend_rpc_start_server": (None, [_S, _S, _N, _N, _P]),
}


class RpcUnavailable(Exception):
    """This llama.cpp was built without RPC."""


def library() -> Any:
    """The initialized library, with its functions declared."""
    from llama_cpp import llama_cpp

    llama_cpp.llama_backend_init()
    return _declare(llama_cpp._lib, _FUNCTIONS)


def rpc_library() -> Any:
    """The same with the RPC functions. Raises RpcUnavailable."""
    try:
        return _declare(library(), _RPC_FUNCTIONS)
    except AttributeError as error:
        raise RpcUnavailable from error


def add_rpc_servers(endpoints: list[str]) -> None:
    """Register the devices of RPC servers (host:port). Raises RpcUnavailable.

    If a server cannot be reached, ggml ends the process: check them first (`devices.check_servers`).
    """
    for endpoint in endpoints:
        ggml = rpc_library()
        ggml.ggml_backend_register(ggml.ggml_backend_rpc_add_server(endpoint.encode()))


def all_devices(ggml: Any) -> list[Any]:
    """Every device in the registry, in its order."""
    return [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]


def backends(ggml: Any) -> list[str]:
    """The names of the registered backends, such as CPU, CUDA and RPC."""
    registered = [ggml.ggml_backend_reg_get(index) for index in range(ggml.ggml_backend_reg_count())]
    return [_text(ggml.ggml_backend_reg_name(registry)) for registry in registered]


def device_info(ggml: Any, device: Any) -> dict[str, Any]:
    """Name, description, kind, backend and memory (in bytes) of a device."""
    free, total = _N(), _N()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    device_type = ggml.ggml_backend_dev_type(device)
    return {
        "name": _text(ggml.ggml_backend_dev_name(device)),
        "description": _text(ggml.ggml_backend_dev_description(device)),
        "kind": _DEVICE_TYPES[device_type] if device_type < len(_DEVICE_TYPES) else "accelerator",
        "free_bytes": free.value,
        "total_bytes": total.value,
        "backend": _text(ggml.ggml_backend_reg_name(ggml.ggml_backend_dev_backend_reg(device))),
    }


def set_threads(ggml: Any, device: Any, backend: Any, threads: int) -> None:
    """Set the number of threads of a backend, if it has threads."""
    registry = ggml.ggml_backend_dev_backend_reg(device)
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
    if address:
        ctypes.CFUNCTYPE(None, _P, ctypes.c_int)(address)(backend, threads)


def _declare(handle: Any, functions: dict[str, tuple[Any, list[Any]]]) -> Any:
    for name, (result, arguments) in functions.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments
    return handle


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
