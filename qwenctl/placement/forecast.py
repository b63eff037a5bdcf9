"""Predicts the speed of a placement: decode and prefill in tokens/s, and the bottleneck of each.

The bytes read per token from each memory and a `Machine` come in; a frozen `Forecast` goes out. Decoding reads
everything once per token, one memory after the other (llama.cpp overlaps none of it), so its time is the sum of bytes
divided by bandwidth. The constants are the shares of bandwidth that llama.cpp reaches, fitted to eight published runs.
The model is within 6 % for the 35B on an RTX 3090 and 5080 and for the 397B on an RTX PRO 6000 with twelve channels of
RAM, and within 26 % for the 35B on an RTX 3060 and for the 122B on a 4090 with unknown RAM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenctl.machine.profile import Device, Machine
from qwenctl.placement.tensor_inventory import ModelDims
from qwenctl.protocol.placement import CPU

# Bytes/s if nothing was measured: two channels of DDR4-3200, the slowest GPU in use, PCIe 3.0.
UNKNOWN_RAM, UNKNOWN_DEVICE, UNKNOWN_COPY = 40e9, 300e9, 12e9
_RAM_SHARE, _DEVICE_SHARE = 0.8, 0.9  # of the bandwidth of a plain read
_CORE_RATE = 8e9  # bytes/s of weights that one core multiplies, whatever their type
_LAYER_SECONDS = 1e-4  # kernel launches and synchronization of a layer on a device
# Prefill: FLOP/s of a core; FLOP/s of a device per byte/s of its bandwidth, with small experts and in dense models.
_CORE_FLOPS, _EXPERT_FLOPS, _DENSE_FLOPS = 25e9, 20, 60
_READ_RATE = 2e9  # bytes/s, loading from a typical NVMe disk
PAGING_RATE = 3e9  # bytes/s of an NVMe disk, read in pieces


@dataclass(frozen=True)
class Forecast:
    """Speeds in tokens/s: `decode` with an empty context, `decode_full` with a full one, and `prefill`.

    `limit` and `prefill_limit` name the bottleneck. `paged_bytes` of the experts do not fit into RAM and are read from
    disk again and again.
    """

    decode: float
    decode_full: float
    prefill: float
    load_seconds: float
    limit: str
    prefill_limit: str
    paged_bytes: int = 0


@dataclass(frozen=True)
class TokenTraffic:
    """Bytes that a token reads from each memory: `reads` with an empty context, `full_reads` with a full one.

    `device_layers` are computed on devices. `copied` are bytes of experts in RAM that a device would copy for a
    micro-batch, `offloads` says whether it would. `weights` are the bytes of the whole model.
    """

    reads: Mapping[str, float]
    full_reads: Mapping[str, float]
    device_layers: int
    copied: int
    offloads: bool
    weights: int
    paged_bytes: int = 0


def read_rate(machine: Machine, name: str) -> float:
    """Bytes/s that decoding reads from the memory `name`."""
    if name == CPU:
        return min(_RAM_SHARE * (machine.ram_bandwidth or UNKNOWN_RAM), _CORE_RATE * machine.cores)
    return _DEVICE_SHARE * (_device(machine, name).bandwidth or UNKNOWN_DEVICE)


def token_seconds(machine: Machine, reads: Mapping[str, float], device_layers: int) -> float:
    """Seconds per token that reads these bytes from each memory."""
    return sum(n_bytes / read_rate(machine, name) for name, n_bytes in reads.items()) + _LAYER_SECONDS * device_layers


def forecast(machine: Machine, shape: ModelDims, traffic: TokenTraffic, micro_batch: int) -> Forecast:
    """Predict the speeds of a placement."""
    paging = _paging_seconds(traffic)
    empty = token_seconds(machine, traffic.reads, traffic.device_layers) + paging
    full = token_seconds(machine, traffic.full_reads, traffic.device_layers) + paging
    slowest = max(traffic.reads, key=lambda name: traffic.reads[name] / read_rate(machine, name))
    prefill, prefill_limit = _prefill(machine, shape, traffic, micro_batch)
    return Forecast(
        decode=1 / empty,
        decode_full=1 / full,
        prefill=prefill,
        load_seconds=traffic.weights / _READ_RATE,
        limit="disk" if paging > empty / 2 else _memory_label(slowest),
        prefill_limit=prefill_limit,
        paged_bytes=traffic.paged_bytes,
    )


def _paging_seconds(traffic: TokenTraffic) -> float:
    """Seconds per token for experts that are not in RAM: their share of the experts' bytes, read from disk."""
    return traffic.reads.get(CPU, 0.0) * min(1.0, traffic.paged_bytes / max(1, traffic.copied)) / PAGING_RATE


def _prefill(machine: Machine, shape: ModelDims, traffic: TokenTraffic, micro_batch: int) -> tuple[float, str]:
    """Tokens/s and the bottleneck: copying experts to a device, or computing there or on the CPU."""
    ram = traffic.reads.get(CPU, 0.0)
    total = sum(traffic.reads.values()) or 1.0
    flops = 2.0 * active_weights(shape) * micro_batch
    on_cpu = flops * ram / total / (machine.cores * _CORE_FLOPS)
    computing = flops * (total - ram) / total / _device_flops(machine, shape, traffic)
    if traffic.offloads and traffic.copied:
        # A micro-batch copies each expert that at least one of its tokens uses. With a random choice of experts, one is
        # unused with probability (1 - used / all) ** tokens.
        unread = (1 - shape.experts_used / max(1, shape.experts)) ** micro_batch
        copying = traffic.copied * (1 - unread) / _copy_rate(machine)
        if copying < on_cpu:
            computing += flops * ram / total / _device_flops(machine, shape, traffic)
            limit = "copying experts to the GPU" if copying > computing else "the GPU"
            return micro_batch / (copying + computing), limit
    return micro_batch / (on_cpu + computing), "the CPU" if on_cpu > computing else "the GPU"


def active_weights(shape: ModelDims) -> int:
    """The approximate number of weights that a token uses.

    These are attention, and the used and shared experts, or in a dense model the feed-forward network.
    """
    attention = 4 * shape.hidden * max(shape.linear_inner, shape.heads * shape.head_dim)
    experts = 3 * shape.hidden * shape.width * (shape.experts_used + 1 if shape.experts else 1)
    return shape.layers * (attention + experts) + shape.hidden * shape.vocabulary


def _device_flops(machine: Machine, shape: ModelDims, traffic: TokenTraffic) -> float:
    used = [device for device in machine.devices if traffic.reads.get(device.name)]
    bandwidth = max((device.bandwidth or UNKNOWN_DEVICE for device in used), default=UNKNOWN_DEVICE)
    return (_EXPERT_FLOPS if shape.experts else _DENSE_FLOPS) * bandwidth


def _copy_rate(machine: Machine) -> float:
    return max((device.copy_rate or UNKNOWN_COPY for device in machine.devices), default=UNKNOWN_COPY)


def _device(machine: Machine, name: str) -> Device:
    return next(device for device in machine.devices if device.name == name)


def _memory_label(memory: str) -> str:
    return "RAM" if memory == CPU else memory
