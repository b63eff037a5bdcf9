"""The memories of a machine, their sizes and bandwidths: what a plan is made for.

A real machine is measured elsewhere; a described one, which may not exist yet, is made here of sizes alone. Frozen
values go out. Nothing is measured here and no library is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GIB = 1 << 30
# What is not available of a described memory: half a GiB for driver and display, a tenth of the RAM for the system,
# but at most 6 GiB.
_DRIVER_BYTES, _SYSTEM_SHARE, _SYSTEM_BYTES = GIB // 2, 10, 6 * GIB
_DESCRIBED_CORES = 8


@dataclass(frozen=True)
class Device:
    """A device with dedicated memory; `name` and `backend` are ggml's ("CUDA0", "CUDA").

    `bandwidth` is the rate of reads from its memory, `copy_rate` of copies from RAM to it, both in bytes/s and None if
    unknown.
    """

    name: str
    backend: str
    description: str
    total_bytes: int
    free_bytes: int
    bandwidth: float | None = None
    copy_rate: float | None = None


@dataclass(frozen=True)
class Machine:
    """RAM in bytes, and the bytes/s that decoding threads can read from it; `cores` are physical and free."""

    ram_total: int
    ram_available: int
    ram_bandwidth: float | None = None
    cores: int = 1
    devices: tuple[Device, ...] = ()


def machine_from_sizes(gpu_memory: Sequence[int] = (), ram: int = 64 * GIB) -> Machine:
    """A machine by its sizes in bytes: the memory of each GPU, and RAM.

    Its speeds are those of usual hardware of such a size, nine tenths of the data sheet for a GPU and eight tenths for
    RAM, as can be read in practice: 360 GB/s below 16 GiB (RTX 3060), 448 below 24 (RTX 5060 Ti), 936 below 32 (RTX
    3090), 1,792 from there on (RTX 5090, RTX PRO 6000); 26 GB/s over PCIe 4.0 x16; RAM at 83 GB/s (two channels of
    DDR5-5200) up to 256 GiB, 205 above (eight channels of DDR4-3200).
    """
    devices = tuple(
        Device(f"GPU{number}", "described", "", size, max(0, size - _DRIVER_BYTES), _gpu_bandwidth(size), 26e9)
        for number, size in enumerate(gpu_memory)
    )
    system = min(ram // _SYSTEM_SHARE, _SYSTEM_BYTES)
    bandwidth = 0.8 * (83e9 if ram <= 256 * GIB else 205e9)
    return Machine(ram, ram - system, bandwidth, _DESCRIBED_CORES, devices)


def _gpu_bandwidth(size: int) -> float:
    for below, bandwidth in ((16, 360e9), (24, 448e9), (32, 936e9)):
        if size < below * GIB:
            return 0.9 * bandwidth
    return 0.9 * 1792e9
