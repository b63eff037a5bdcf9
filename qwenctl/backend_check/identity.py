"""What a check is valid for: this build of llama.cpp, this CPU, this environment, and each device.

Keys for them go out. No library is loaded, so this takes only milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qwenctl.machine.cpu import read_cpu
from qwenctl.machine.devices import GgmlDevice

_VERSION = "1"  # of the check itself
# Environment variables that change which libraries are loaded, which devices exist, or how they compute.
_VARIABLES = (
    "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "LLAMA_CPP_LIB_PATH", "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES", "HSA_OVERRIDE_GFX_VERSION",
)  # fmt: skip
_PREFIXES = ("GGML_", "CUDA_", "HIP_", "ROCR_")
_IGNORED = ("GGML_NO_BACKTRACE",)


def check_key() -> str:
    """A key for the build and everything it depends on, except for devices."""
    cpu = read_cpu()
    parts = [_VERSION, platform.node(), platform.machine(), cpu.model, " ".join(sorted(cpu.flags))]
    return hashlib.sha256("\n".join([*parts, *_libraries(), *_variables()]).encode()).hexdigest()[:16]


def device_key(device: GgmlDevice) -> str:
    """The key under which a device's result is cached."""
    return f"{device.name} {device.backend} {device.description} {device.total_bytes}"


def _libraries() -> Iterator[str]:
    """The version and the files of llama.cpp: a reinstalled wheel has other file times, even with the same version."""
    try:
        yield version("llama-cpp-python")
    except PackageNotFoundError:
        return
    package = find_spec("llama_cpp")
    folders = [Path(location, "lib") for location in (package and package.submodule_search_locations) or ()]
    if custom_path := os.environ.get("LLAMA_CPP_LIB_PATH"):
        folders.append(Path(custom_path))
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        status = path.stat()
        yield f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _variables() -> Iterator[str]:
    for name in sorted(os.environ):
        if (name in _VARIABLES or name.startswith(_PREFIXES)) and name not in _IGNORED:
            yield f"{name}={os.environ[name]}"
