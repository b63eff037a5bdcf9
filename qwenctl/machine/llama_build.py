"""How llama-cpp-python is compiled for this machine: CMake's switches, and what the compiler must leave out.

This is the one place that says so: `.ci/setup.sh` reads `WITHOUT_AMX` from here, `doctor` prints `build_command`, and a
test holds the rows of `docs/install.md` against it. A backend comes in, a command line goes out; nothing is run.
"""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

# The rule: on x86, llama.cpp is built without its AMX kernels, as long as the release that we ask for is wrong with
# them. The reason, in llama.cpp's ggml/src/ggml-cpu/amx/mmq.cpp of October 2026:
# - `ggml_batch_offset` counts bytes, and its callers add it to a `float *`: in a batch of several sequences all but the
#   first get results from the wrong place. Every hybrid Qwen is hit, with every compiler.
# - gcc 12 declares 8 bytes as the operand of `_tile_loadconfig` and drops the stores to the others: SIGSEGV.
# The end: `qwenctl doctor --measure` passes with extra buffer types (`backend_check`) on a processor that has AMX, with
# a build without this flag. The kernels are compiled where `__AMX_INT8__` is defined, so this one flag is enough, and
# it wins against -march=native in any order. Compilers that do not know it have no AMX.
WITHOUT_AMX = "-mno-amx-int8"

# CMake's switches of llama.cpp, by ggml's names of the backends.
_SWITCHES = {
    "CUDA": "GGML_CUDA",
    "ROCm": "GGML_HIP",
    "MTL": "GGML_METAL",
    "Vulkan": "GGML_VULKAN",
    "CPU": "GGML_NATIVE",
}
_REQUIREMENT = '"llama-cpp-python>=0.3.36"'
_REPLACE = "--no-cache-dir --force-reinstall --no-deps"  # pip takes a wheel that it has built with other flags
_X86 = ("x86_64", "amd64", "i386", "i686")


def build_command(backend: str, machine: str = "") -> str:
    """The command that builds llama-cpp-python for a backend, in the place of the one that is installed.

    `backend` is ggml's name of it, such as "CUDA"; `machine` is `platform.machine()` of the computer it is for, by
    default of this one.
    """
    is_x86 = (machine or platform.machine()).lower() in _X86
    compiler = f"CFLAGS={WITHOUT_AMX} CXXFLAGS={WITHOUT_AMX} " if is_x86 else ""
    switches = f"-D{_SWITCHES[backend]}=ON -DGGML_RPC=ON"
    return f'{compiler}CMAKE_ARGS="{switches}" pip install --no-binary llama-cpp-python {_REPLACE} {_REQUIREMENT}'


_LIBRARIES_WITHOUT_GPU = ("libggml-base", "libggml-cpu", "libggml-rpc", "libggml-blas")


def has_gpu_build() -> bool:
    """Whether the installed llama.cpp was built for GPUs, by the names of its libraries: it takes no time to ask."""
    package = find_spec("llama_cpp")
    folders = package.submodule_search_locations if package is not None else None
    libraries = [path for folder in folders or () for path in Path(folder, "lib").glob("*ggml-*")]
    return any(not path.name.startswith(_LIBRARIES_WITHOUT_GPU) for path in libraries)
