"""Which device holds which tensors, as sent to the engine, and the memory this took, as the engine reports it.

Plain values; how a placement is chosen is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU = "CPU"


@dataclass(frozen=True)
class Placement:
    """The devices of a model, by ggml's names. Without any, ggml uses all it knows and splits the layers itself.

    `layers` has the number of layers for each of `devices`, in order (llama.cpp's tensor_split); the output counts as
    the last layer. `overrides` are pairs (pattern, device): the first pattern found in a tensor's name decides where it
    is stored, a device or "CPU"; patterns are C++ regular expressions (ECMAScript). `rpc` lists servers (host:port)
    whose devices are used as well.
    """

    devices: tuple[str, ...] = ()
    layers: tuple[float, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    rpc: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a loaded model takes in one memory: weights, context (KV cache and recurrent state), compute buffers.

    `name` is a device or "CPU". `mapped` bytes of the weights are mapped from the file, including gaps between them.
    """

    name: str
    weights: int = 0
    context: int = 0
    compute: int = 0
    mapped: int = 0

    @property
    def n_bytes(self) -> int:
        """The sum of weights, context and compute buffers, in bytes."""
        return self.weights + self.context + self.compute
