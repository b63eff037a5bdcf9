"""Puts a model's tensors on devices: a `Placement` comes in, the fields of libllama's parameters are set.

libllama reads devices, split and overrides through pointers while it loads; what they point at is handed back, to be
kept until then. Devices of RPC servers are registered here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import llama_cpp.llama_cpp as llama

from qwenctl.engine.request_errors import RequestError
from qwenctl.errors import QwenctlError
from qwenctl.machine.devices import check_servers
from qwenctl.machine.ggml import RpcUnavailable, add_rpc_servers, all_devices, library
from qwenctl.machine.llama_build import build_command
from qwenctl.protocol.messages import RequestFailed
from qwenctl.protocol.placement import CPU, Placement


class _Override(ctypes.Structure):
    """struct llama_model_tensor_buft_override of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def apply_placement(params: Any, placement: Placement) -> list[Any]:
    """Set the fields of `params` (llama_model_params); what is given back must live while the model loads.

    Raises RequestFailure for a device that is not here and a server that does not answer.
    """
    if placement == Placement():
        return []
    _add_servers(list(placement.rpc))
    ggml = _ggml()
    named = {ggml.ggml_backend_dev_name(device).decode(): device for device in all_devices(ggml)}
    overrides = [
        _Override(pattern.encode(), ggml.ggml_backend_dev_buffer_type(_known(named, device)))
        for pattern, device in placement.overrides
    ]
    kept: list[Any] = [(_Override * (len(overrides) + 1))(*overrides)]
    params.tensor_buft_overrides = ctypes.cast(kept[0], ctypes.c_void_p)
    if placement.devices:
        devices = [_known(named, name) for name in placement.devices if name != CPU]
        kept.append((ctypes.c_void_p * (len(devices) + 1))(*devices))
        params.devices = ctypes.cast(kept[-1], ctypes.c_void_p)
    if placement.layers:
        size = max(len(placement.layers), llama.llama_max_devices())
        kept.append((ctypes.c_float * size)(*placement.layers))
        params.tensor_split = kept[-1]
    return kept


def device_by_buffer_type() -> dict[str, str]:
    """The name of the device by the name of its buffers, which for RPC is another one."""
    ggml = _ggml()
    return {
        ggml.ggml_backend_buft_name(ggml.ggml_backend_dev_buffer_type(device)).decode(): (
            ggml.ggml_backend_dev_name(device).decode()
        )
        for device in all_devices(ggml)
    }


def _ggml() -> Any:
    ggml = library()
    ggml.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_buffer_type.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_buft_name.restype = ctypes.c_char_p
    ggml.ggml_backend_buft_name.argtypes = [ctypes.c_void_p]
    return ggml


def _known(named: Mapping[str, Any], device: str) -> Any:
    if device not in named:
        there = ", ".join(named)
        hint = f"available: {there}; `qwenctl doctor` shows what is here, and a new plan uses it"
        raise RequestError(RequestFailed("setting", f"no device is named {device}", hint))
    return named[device]


def _add_servers(endpoints: list[str]) -> None:
    """ggml ends the process if it cannot reach a server: so each is tried before."""
    try:
        check_servers(endpoints)
    except QwenctlError as error:
        raise RequestError(RequestFailed("setting", error.message, error.hint)) from error
    try:
        add_rpc_servers(endpoints)
    except RpcUnavailable as error:
        raise RequestError(
            RequestFailed("setting", "this llama.cpp was built without RPC", build_command("CPU"))
        ) from error
