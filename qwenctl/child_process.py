"""What every child process that reads foreign files does first, and the environment that it gets.

A model, a template or an image may come from anywhere. The children that parse them know no secrets, leave no core
files, and end at once with the program, even if that is killed.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import runpy
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

_MOST_FILES = 4096
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What a child may know; everything else stays out, API keys and tokens above all.
_NAMES = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR TEMP TMP TERM VIRTUAL_ENV COVERAGE_PROCESS_START"
    " XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_RUNTIME_DIR NVIDIA_VISIBLE_DEVICES".split()
)
_PREFIXES = (
    "LC_", "LD_", "DYLD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_", "LLAMA_", "MTMD_",
    "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "ROCM_", "HSA_", "AMD_", "GPU_", "VK_", "MESA_", "LIBGL_", "LP_",
    "GALLIUM_", "SYCL_", "ONEAPI_", "ZE_", "METAL_", "MTL_", "ASAN_", "UBSAN_", "MALLOC_", "QWENCTL_",
)  # fmt: skip
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "CREDENTIAL")


def clean_environment() -> dict[str, str]:
    """This process's variables that a child with foreign files gets: an allow-list without anything secret."""
    return {name: value for name, value in os.environ.items() if is_allowed(name)}


def is_allowed(name: str) -> bool:
    """Whether a child with foreign files gets the variable of this name."""
    upper = name.upper()
    return (name in _NAMES or name.startswith(_PREFIXES)) and not any(word in upper for word in _SECRET_WORDS)


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` in Python as a child of this process, with the limits of this module.

    Call it where the child is started. Linux ends a child with the thread that started it, so one that is started by
    another thread than the main one is not tied to this process: it must see the end of its standard input.
    """
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    return [sys.executable, "-P", "-m", "qwenctl.child_process", str(parent), module, *arguments]


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, a process id, ends; 0, and other systems: nothing is done."""
    if not parent or not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def limit_resources(files: int = _MOST_FILES, file_bytes: int | None = None) -> None:
    """No core files (they hold conversations), at most `files` open files, and files of at most `file_bytes`."""
    limits: Mapping[int, int | None] = {
        resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: files, resource.RLIMIT_FSIZE: file_bytes,
    }  # fmt: skip
    for kind, limit in limits.items():
        if limit is None:
            continue
        _, hard = resource.getrlimit(kind)
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """Run the module that `child_command` names."""
    parent, module, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    limit_resources()
    sys.argv[1:] = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        gc.freeze()  # Python would look for cycles among all objects at its end, which takes longer than a probe


if __name__ == "__main__":
    main()
