"""Where tensors shall lie, as the engine is told, and the memory that this took, as it answers.

Part of the protocol: plain values, which say nothing of why a tensor should lie where it does.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU = "CPU"


@dataclass(frozen=True)
class Placement:
    """Devices by ggml's names. Without any, ggml takes all that it knows and divides the layers itself.

    `layers` says how many of the layers that are not on the CPU each device gets, the first of them first; the output
    is the last. A tensor whose name is found by the pattern of an override lies on that device (or on "CPU"), the first
    that matches; patterns are C++'s regular expressions (ECMAScript). `rpc` are servers (host:port) with more devices.
    """

    devices: tuple[str, ...] = ()
    layers: tuple[float, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    rpc: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a loaded model takes in one memory: of weights, of the context (KV cache, state), of compute buffers.

    `name` is a device's or "CPU". `mapped` of the weights are mapped from the file, with gaps between them.
    """

    name: str
    weights: int = 0
    context: int = 0
    compute: int = 0
    mapped: int = 0

    @property
    def n_bytes(self) -> int:
        """All bytes."""
        return self.weights + self.context + self.compute
