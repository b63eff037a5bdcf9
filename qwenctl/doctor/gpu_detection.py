"""The GPUs that this machine has, seen without ggml.

The root of a file system comes in, ggml's names of backends go out: what a build should have, not what it has.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

_OTHER_NAMES = {"ROCm": ("HIP",), "MTL": ("Metal",)}
# Vulkan drives cards of every maker.
_ANY = ("Vulkan", "SYCL", "OpenCL")


def seen_backends(root: Path = Path("/")) -> dict[str, str]:
    """The backends that this machine has hardware for, each with what it was seen by.

    NVIDIA's driver makes /dev/nvidia0 and on, AMD's compute driver /dev/kfd.
    """
    seen = {}
    nvidia = sorted((root / "dev").glob("nvidia[0-9]*")) or sorted((root / "proc/driver/nvidia/gpus").glob("*"))
    if nvidia:
        seen["CUDA"] = str(Path("/") / nvidia[0].relative_to(root))
    if (root / "dev/kfd").exists():
        seen["ROCm"] = "/dev/kfd"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        seen["MTL"] = "Apple silicon"
    return seen


def is_built_for(backend: str, built: tuple[str, ...]) -> bool:
    """Whether a build with the backends `built` can use the hardware that `backend` is for."""
    return any(name in built for name in (backend, *_OTHER_NAMES.get(backend, ()), *_ANY))
