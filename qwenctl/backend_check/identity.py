"""What a check is valid for: this build of llama.cpp, this processor, this environment, and each device.

Names for them go out. No library is opened, so that asking costs a few milliseconds.
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
# Variables that change which libraries are loaded, which devices there are, or how they compute.
_VARIABLES = (
    "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "LLAMA_CPP_LIB_PATH", "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES", "HSA_OVERRIDE_GFX_VERSION",
)  # fmt: skip
_PREFIXES = ("GGML_", "CUDA_", "HIP_", "ROCR_")
_WITHOUT_EFFECT = ("GGML_NO_BACKTRACE",)


def check_key() -> str:
    """A name for the build and all that it depends on, but for the devices."""
    cpu = read_cpu()
    parts = [_VERSION, platform.node(), platform.machine(), cpu.model, " ".join(sorted(cpu.flags))]
    return hashlib.sha256("\n".join([*parts, *_libraries(), *_variables()]).encode()).hexdigest()[:16]


def device_key(device: GgmlDevice) -> str:
    """What the result of a device is kept by."""
    return f"{device.name} {device.backend} {device.description} {device.total_bytes}"


def _libraries() -> Iterator[str]:
    """The files of llama.cpp: a wheel that is installed anew has other times, even if it has the same version."""
    try:
        yield version("llama-cpp-python")
    except PackageNotFoundError:
        return
    package = find_spec("llama_cpp")
    folders = [Path(one, "lib") for one in (package and package.submodule_search_locations) or ()]
    if own := os.environ.get("LLAMA_CPP_LIB_PATH"):
        folders.append(Path(own))
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        status = path.stat()
        yield f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _variables() -> Iterator[str]:
    for name in sorted(os.environ):
        if (name in _VARIABLES or name.startswith(_PREFIXES)) and name not in _WITHOUT_EFFECT:
            yield f"{name}={os.environ[name]}"
