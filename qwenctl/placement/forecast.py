"""How fast a placement will be: tokens a second of decode and prefill, and what limits them.

Bytes read for each token by memory, and a `Machine`, come in; a frozen `Forecast` goes out. Decoding reads all
that it needs once a token, one memory after the other (llama.cpp overlaps none of it), so that its time is the sum of
bytes by bandwidth. The constants are what llama.cpp reaches of that, fitted to eight published runs: those of the 35B
on an RTX
3090 and 5080, and of the 397B on an RTX PRO 6000 with twelve channels of RAM, are met within 6 %, those of the 35B on
an RTX 3060, and of the 122B on a 4090 whose RAM is not told, within 26 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenctl.machine.profile import Device, Machine
from qwenctl.placement.tensor_inventory import ModelDims
from qwenctl.protocol.placement import CPU

# Where nothing was measured: two channels of DDR4-3200, the slowest GPU that is sold for this, PCIe 3.0.
UNKNOWN_RAM, UNKNOWN_DEVICE, UNKNOWN_COPY = 40e9, 300e9, 12e9
_RAM_SHARE, _DEVICE_SHARE = 0.8, 0.9  # of what a plain read reaches
_CORE_RATE = 8e9  # bytes a second that one core multiplies, of any type of weights
_LAYER_SECONDS = 1e-4  # launches and waits of a layer on a device
# Prefill: operations a second of a core, and of a device for each byte a second of its bandwidth, small experts or not.
_CORE_FLOPS, _EXPERT_FLOPS, _DENSE_FLOPS = 25e9, 20, 60
_READ_RATE = 2e9  # loading: a usual NVMe disk
PAGING_RATE = 3e9  # bytes a second of an NVMe disk, read in pieces


@dataclass(frozen=True)
class Forecast:
    """Tokens a second with an empty context (`decode`), with a full one, and of prefill; `limit` names a memory.

    `paged_bytes` of the experts do not fit into RAM and are read from disk again and again.
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
    """Bytes by memory that a token reads, and those of its cache in a full context; layers on devices.

    `copied` are bytes of experts in RAM that a device would copy for a micro-batch, `offloads` whether it would.
    """

    reads: Mapping[str, float]
    full_reads: Mapping[str, float]
    device_layers: int
    copied: int
    offloads: bool
    weights: int
    paged_bytes: int = 0


def rate(machine: Machine, name: str) -> float:
    """Bytes a second that decoding reads from the memory `name`."""
    if name == CPU:
        return min(_RAM_SHARE * (machine.ram_bandwidth or UNKNOWN_RAM), _CORE_RATE * machine.cores)
    return _DEVICE_SHARE * (_device(machine, name).bandwidth or UNKNOWN_DEVICE)


def token_seconds(machine: Machine, reads: Mapping[str, float], device_layers: int) -> float:
    """Seconds of one token that reads these bytes of each memory."""
    return sum(n_bytes / rate(machine, name) for name, n_bytes in reads.items()) + _LAYER_SECONDS * device_layers


def forecast(machine: Machine, shape: ModelDims, work: TokenTraffic, micro_batch: int) -> Forecast:
    """The speeds of a placement."""
    paging = _paging_seconds(work)
    empty = token_seconds(machine, work.reads, work.device_layers) + paging
    full = token_seconds(machine, work.full_reads, work.device_layers) + paging
    slowest = max(work.reads, key=lambda name: work.reads[name] / rate(machine, name))
    prefill, prefill_limit = _prefill(machine, shape, work, micro_batch)
    return Forecast(
        decode=1 / empty,
        decode_full=1 / full,
        prefill=prefill,
        load_seconds=work.weights / _READ_RATE,
        limit="disk" if paging > empty / 2 else _name(slowest),
        prefill_limit=prefill_limit,
        paged_bytes=work.paged_bytes,
    )


def _paging_seconds(work: TokenTraffic) -> float:
    """What is not in RAM is read from the disk: its share of the experts' bytes of a token."""
    return work.reads.get(CPU, 0.0) * min(1.0, work.paged_bytes / max(1, work.copied)) / PAGING_RATE


def _prefill(machine: Machine, shape: ModelDims, work: TokenTraffic, micro_batch: int) -> tuple[float, str]:
    """Tokens a second, and what limits them: copying experts to a device, computing there or on the CPU."""
    ram = work.reads.get(CPU, 0.0)
    total = sum(work.reads.values()) or 1.0
    flops = 2.0 * active_weights(shape) * micro_batch
    on_cpu = flops * ram / total / (machine.cores * _CORE_FLOPS)
    computing = flops * (total - ram) / total / _flops(machine, shape, work)
    if work.offloads and work.copied:
        unread = (1 - shape.experts_used / max(1, shape.experts)) ** micro_batch
        copying = work.copied * (1 - unread) / _copy_rate(machine)
        if copying < on_cpu:
            computing += flops * ram / total / _flops(machine, shape, work)
            limit = "copying experts to the GPU" if copying > computing else "the GPU"
            return micro_batch / (copying + computing), limit
    return micro_batch / (on_cpu + computing), "the CPU" if on_cpu > computing else "the GPU"


def active_weights(shape: ModelDims) -> int:
    """Weights that a token meets, about: attention, and the experts used with the shared one or the feed-forward."""
    attention = 4 * shape.hidden * max(shape.linear_inner, shape.heads * shape.head_dim)
    experts = 3 * shape.hidden * shape.width * (shape.experts_used + 1 if shape.experts else 1)
    return shape.layers * (attention + experts) + shape.hidden * shape.vocabulary


def _flops(machine: Machine, shape: ModelDims, work: TokenTraffic) -> float:
    used = [device for device in machine.devices if work.reads.get(device.name)]
    bandwidth = max((device.bandwidth or UNKNOWN_DEVICE for device in used), default=UNKNOWN_DEVICE)
    return (_EXPERT_FLOPS if shape.experts else _DENSE_FLOPS) * bandwidth


def _copy_rate(machine: Machine) -> float:
    return max((device.copy_rate or UNKNOWN_COPY for device in machine.devices), default=UNKNOWN_COPY)


def _device(machine: Machine, name: str) -> Device:
    return next(device for device in machine.devices if device.name == name)


def _name(memory: str) -> str:
    return "RAM" if memory == CPU else memory
