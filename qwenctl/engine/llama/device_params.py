"""Assigns a model's tensors to devices: a `Placement` comes in, fields of libllama's model parameters are set.

libllama reads devices, split and overrides through pointers while it loads; the arrays they point to are returned, so
that the caller can keep them alive. The devices of RPC servers are registered here.
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
    """Set the fields of `params` (llama_model_params); the returned objects must stay alive while the model loads.

    Raises RequestError for an unknown device, or a server that does not answer.
    """
    if placement == Placement():
        return []
    _add_servers(list(placement.rpc))
    ggml = _ggml()
    device_by_name = {ggml.ggml_backend_dev_name(device).decode(): device for device in all_devices(ggml)}
    overrides = [
        _Override(pattern.encode(), ggml.ggml_backend_dev_buffer_type(_device_named(device_by_name, device)))
        for pattern, device in placement.overrides
    ]
    # One element more than needed: libllama's lists of overrides and of devices end with a null.
    alive: list[Any] = [(_Override * (len(overrides) + 1))(*overrides)]
    params.tensor_buft_overrides = ctypes.cast(alive[0], ctypes.c_void_p)
    if placement.devices:
        devices = [_device_named(device_by_name, name) for name in placement.devices if name != CPU]
        alive.append((ctypes.c_void_p * (len(devices) + 1))(*devices))
        params.devices = ctypes.cast(alive[-1], ctypes.c_void_p)
    if placement.layers:
        size = max(len(placement.layers), llama.llama_max_devices())
        alive.append((ctypes.c_float * size)(*placement.layers))
        params.tensor_split = alive[-1]
    return alive


def device_by_buffer_type() -> dict[str, str]:
    """The name of each device by the name of its buffer type; for RPC the two differ."""
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


def _device_named(devices: Mapping[str, Any], device: str) -> Any:
    if device not in devices:
        names = ", ".join(devices)
        hint = f"available: {names}; `qwenctl doctor` shows what is here, and a new plan uses it"
        raise RequestError(RequestFailed("setting", f"no device is named {device}", hint))
    return devices[device]


def _add_servers(endpoints: list[str]) -> None:
    """Connect to each server first: ggml would end the process if it could not reach one. Raises RequestError."""
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
