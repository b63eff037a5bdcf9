"""A machine with one GPU as it would be inspected, with round numbers."""

from __future__ import annotations

from pathlib import Path

from qwenctl.machine.bandwidth_cache import MemoryBandwidth, SavedBandwidths, device_key
from qwenctl.machine.cpu import Cpu
from qwenctl.machine.devices import Build, GgmlDevice
from qwenctl.machine.inspect import MachineReport
from qwenctl.machine.memory import Memory
from qwenctl.machine.profile import GIB

THREADS = 8
CPU_DEVICE = GgmlDevice("CPU", "Some CPU", "cpu", 64 * GIB, 48 * GIB, "CPU")
GPU_DEVICE = GgmlDevice("CUDA0", "Some GPU", "gpu", 24 * GIB, 23 * GIB, "CUDA")
SHARED_GPU = GgmlDevice("Vulkan0", "Graphics of the processor", "igpu", 64 * GIB, 48 * GIB, "Vulkan")
EXAMPLE_MACHINE = MachineReport(
    "identity",
    Cpu("Some CPU", 16, 12, 1, frozenset({"avx2", "fma"})),
    Memory(64 * GIB, 48 * GIB),
    Build(("CPU", "CUDA"), frozenset({"AVX2", "FMA"}), (CPU_DEVICE, GPU_DEVICE, SHARED_GPU)),
    THREADS,
    SavedBandwidths(
        {
            device_key(CPU_DEVICE, THREADS): MemoryBandwidth(60e9),
            device_key(GPU_DEVICE, THREADS): MemoryBandwidth(900e9, 25e9),
        },
        Path("/cache/bandwidths.json"),
        "2026-01-01",
    ),
)
