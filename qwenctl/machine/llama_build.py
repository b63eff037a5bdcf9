"""How to compile llama-cpp-python for this machine: CMake options, and what the compiler must leave out.

This module is the only source: `.ci/setup.sh` reads `WITHOUT_AMX` from it, `doctor` prints `build_command`, and a test
compares the table in `docs/install.md` with it. A backend comes in, a command line goes out; nothing is run.
"""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

# Rule: on x86, llama.cpp is built without its AMX kernels as long as they are wrong in the release that we require.
# Reason, in llama.cpp's ggml/src/ggml-cpu/amx/mmq.cpp of October 2026:
# - `ggml_batch_offset` counts bytes, but its callers add it to a `float *`: in a batch of several sequences, all but
#   the first get results from the wrong place. Every hybrid Qwen is affected, with every compiler.
# - gcc 12 declares an operand of 8 bytes for `_tile_loadconfig`, and drops the stores to the other bytes: SIGSEGV.
# Until: `qwenctl doctor --measure` passes with extra buffer types (`backend_check`) on a CPU with AMX, in a build
# without this flag. The kernels are only compiled if `__AMX_INT8__` is defined, so this one flag is enough, and it
# overrides -march=native in any order. Compilers that do not know the flag have no AMX.
WITHOUT_AMX = "-mno-amx-int8"

# CMake options of llama.cpp, by ggml's backend names.
_SWITCHES = {
    "CUDA": "GGML_CUDA",
    "ROCm": "GGML_HIP",
    "MTL": "GGML_METAL",
    "Vulkan": "GGML_VULKAN",
    "CPU": "GGML_NATIVE",
}
_REQUIREMENT = '"llama-cpp-python>=0.3.36"'
_REINSTALL = "--no-cache-dir --force-reinstall --no-deps"  # or pip would reuse a wheel built with other flags
_X86 = ("x86_64", "amd64", "i386", "i686")


def build_command(backend: str, machine: str = "") -> str:
    """The command that builds llama-cpp-python for a backend and replaces the installed one.

    `backend` is ggml's name, such as "CUDA"; `machine` is `platform.machine()` of the target computer, by default of
    this one.
    """
    is_x86 = (machine or platform.machine()).lower() in _X86
    compiler = f"CFLAGS={WITHOUT_AMX} CXXFLAGS={WITHOUT_AMX} " if is_x86 else ""
    switches = f"-D{_SWITCHES[backend]}=ON -DGGML_RPC=ON"
    return f'{compiler}CMAKE_ARGS="{switches}" pip install --no-binary llama-cpp-python {_REINSTALL} {_REQUIREMENT}'


_LIBRARIES_WITHOUT_GPU = ("libggml-base", "libggml-cpu", "libggml-rpc", "libggml-blas")


def has_gpu_build() -> bool:
    """Whether the installed llama.cpp was built for GPUs, judged by the names of its libraries, which is fast."""
    package = find_spec("llama_cpp")
    folders = package.submodule_search_locations if package is not None else None
    libraries = [path for folder in folders or () for path in Path(folder, "lib").glob("*ggml-*")]
    return any(not path.name.startswith(_LIBRARIES_WITHOUT_GPU) for path in libraries)
