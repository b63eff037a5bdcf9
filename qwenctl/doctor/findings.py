"""Judge what was found: values come in, `Finding`s go out, each with a hint about what to do.

Apart from `detect_gpu_backends`, nothing is inspected here, so that every judgment can be tested on any machine.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.formatting import format_bytes, format_memory
from qwenctl.backend_check.check import describe_failure
from qwenctl.backend_check.results import BackendCheck
from qwenctl.errors import command_line
from qwenctl.hub.select.fit import Fit
from qwenctl.machine.devices import Build
from qwenctl.machine.disks import Disk, ReadSpeed
from qwenctl.machine.llama_build import build_command
from qwenctl.machine.memory import Memory, Swap

_OTHER_NAMES = {"ROCm": ("HIP",), "MTL": ("Metal",)}
# Vulkan, SYCL and OpenCL drive GPUs of several vendors.
_ANY_VENDOR = ("Vulkan", "SYCL", "OpenCL")


def detect_gpu_backends(root: Path = Path("/")) -> dict[str, str]:
    """Return the backends that this machine has hardware for, each with the evidence, without asking ggml.

    NVIDIA's driver creates /dev/nvidia0 and so on, AMD's compute driver /dev/kfd.
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
    """Whether a build with the backends `built` can use the hardware of `backend`, under any of its names."""
    return any(name in built for name in (backend, *_OTHER_NAMES.get(backend, ()), *_ANY_VENDOR))


_MAX_SWAP_BYTES = 64 << 20  # the kernel swaps out a few pages that are never needed again
_MIN_READ_RATE = 400e6  # bytes/s; a SATA SSD is faster, and 20 GB take almost a minute
_MIN_FREE_BYTES = 5 << 30  # less than the smallest mixture-of-experts model takes
# CPU features: ggml's name for what its CPU backend was built for, and the kernel's name for what the processor has. No
# AMX, see `llama_build.WITHOUT_AMX`.
_FEATURES = {
    "AVX": "avx", "AVX2": "avx2", "F16C": "f16c", "FMA": "fma", "BMI2": "bmi2", "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
    "NEON": "asimd", "DOTPROD": "asimddp", "MATMUL_INT8": "i8mm", "SVE": "sve",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A problem in one sentence, and a `hint` about what to do, usually a command to paste. `topic` is one word."""

    topic: str
    message: str
    hint: str


@dataclass(frozen=True)
class Cache:
    """A cache of models: free bytes, the leftovers of stopped downloads, and why it cannot be written ("": it can)."""

    root: Path
    free_bytes: int
    leftovers: int
    leftover_bytes: int
    error: str = ""


def check_build(build: Build, seen: Mapping[str, str], names: Sequence[str] = ()) -> Iterator[Finding]:
    """Check whether llama.cpp runs and uses the GPUs.

    `seen` are the backends that this machine has hardware for, `names` the names of its NVIDIA cards. A GPU that the
    build does not use is no problem if it uses another one: many CPUs have an integrated GPU.
    """
    if build.error:
        yield Finding("build", f"llama.cpp does not run: {build.error}", build_command(next(iter(seen), "CPU")))
        return
    if not seen:
        return
    used = [backend for backend in seen if is_built_for(backend, build.backends)]
    backend = next(iter(used or seen))
    what = ", ".join(names) if names and backend == "CUDA" else seen[backend]
    if not used:
        message = f"llama.cpp is built without {backend}, but there is a GPU ({what}): it would not be used"
        yield Finding("build", message, build_command(backend))
    elif not any(device.kind in ("gpu", "igpu") and device.backend != "RPC" for device in build.devices):
        tool = {"CUDA": "nvidia-smi", "ROCm": "rocminfo"}.get(backend, "qwenctl doctor --json")
        yield Finding(
            "build", f"llama.cpp is built for {backend}, but finds no GPU ({what})", f"run `{tool}` to see why"
        )


def check_computation(check: BackendCheck) -> Iterator[Finding]:
    """Report the operations that llama.cpp computes incorrectly on this machine."""
    for result in check.subjects:
        if not result.passed:
            yield Finding("backend", *describe_failure(result))


def check_features(flags: frozenset[str], features: frozenset[str]) -> Iterator[Finding]:
    """Report instruction sets that the processor has but the build does not use."""
    unused = [name for name, flag in _FEATURES.items() if flag in flags and name not in features]
    if unused and features:
        message = f"llama.cpp is built without {', '.join(unused)}, which this processor has"
        yield Finding("build", message, build_command("CPU"))


def check_models(fits: Mapping[str, Fit], memory: Memory, gpu_bytes: int) -> Iterator[Finding]:
    """Report installed models (`fits`, by name) that are too large for the memory."""
    gpu = f"{format_memory(gpu_bytes)} of GPU memory and " if gpu_bytes else ""
    available = f"{gpu}{format_memory(memory.total_bytes)} of RAM"
    for name, fit in fits.items():
        if fit.where == "would page from disk":
            needed = format_memory(fit.needed_bytes)
            message = f"{name} needs {needed}, this machine has {available}: it would page from disk"
            repository = name.partition(":")[0]
            hint = f"`{command_line('ls', repository)}` lists smaller ones" if "/" in repository else ""
            yield Finding("memory", message, hint)


def check_swap(swap: Swap) -> Iterator[Finding]:
    """Report swap in use: weights swapped out are read from disk for each token."""
    if swap.used_bytes > _MAX_SWAP_BYTES:
        message = f"{format_memory(swap.used_bytes)} of swap is in use: this machine has run out of RAM"
        yield Finding(
            "memory", message, "close programs that use it, then `sudo swapoff -a && sudo swapon -a` empties it"
        )


def check_disk(disk: Disk, speed: ReadSpeed | None, largest_bytes: int) -> Iterator[Finding]:
    """Report a slow disk of models, by its kind or its measured `speed`; the largest model has `largest_bytes`."""
    hint = "`qwenctl pull NAME --to DIR` stores a model on another disk"
    if disk.is_networked:
        message = f"models are on a network file system ({disk.file_system} at {disk.mount})"
        yield Finding("disk", message, hint)
    elif disk.is_rotational:
        yield Finding("disk", f"models are on a hard disk ({disk.mount})", hint)
    if speed and speed.bytes_per_second < _MIN_READ_RATE:
        seconds = largest_bytes / speed.bytes_per_second
        rate = f"{format_bytes(speed.bytes_per_second)}/s"
        message = f"{disk.mount} reads {rate}: {format_bytes(largest_bytes)} take {seconds:,.0f} s to read"
        yield Finding("disk", message, hint)


def check_cache(cache: Cache) -> Iterator[Finding]:
    """Report a cache that cannot be written, has leftovers, or has little free space."""
    if cache.error:
        message = f"{cache.root} cannot be written ({cache.error})"
        yield Finding("cache", message, "HF_HOME=DIR sets another folder; models already there stay usable")
    if cache.leftovers:
        message = f"stopped downloads left {format_bytes(cache.leftover_bytes)} in {cache.root}"
        yield Finding("cache", message, "`qwenctl pull` resumes them, `qwenctl clean` removes them")
    if cache.free_bytes < _MIN_FREE_BYTES:
        message = f"{format_bytes(cache.free_bytes)} free where models are stored ({cache.root})"
        yield Finding("cache", message, "`qwenctl ls`, `qwenctl rm NAME` and `qwenctl clean` free up space")
