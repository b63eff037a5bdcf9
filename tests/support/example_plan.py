"""A small plan with round numbers: a model on one GPU with some of its experts in RAM."""

from __future__ import annotations

from qwenctl.machine.profile import GIB, Machine
from qwenctl.placement.forecast import Forecast
from qwenctl.placement.plan import MemoryPart, MemoryPlan, Plan
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU

RAM = MemoryPlan(CPU, 64 * GIB, 48 * GIB, (MemoryPart("routed experts", 16 * GIB, "0-11"),))
GPU = MemoryPlan(
    "CUDA0",
    32 * GIB,
    32 * GIB,
    (
        MemoryPart("attention", 8 * GIB),
        MemoryPart("routed experts", 8 * GIB, "12-39"),
        MemoryPart("KV cache", 4 * GIB),
    ),
)
EXAMPLE_PLAN = Plan(
    "Qwen3.5-35B",
    Machine(64 * GIB, 48 * GIB),
    LoadParams(context_tokens=32_768, threads=8),
    (RAM, GPU),
    Forecast(50.0, 40.0, 1500.0, 12.0, "RAM bandwidth", "copies over PCIe"),
    ("the experts of 12 layers do not fit on the GPU",),
)
