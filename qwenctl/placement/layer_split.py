"""Splits the layers among the devices, and fills each device's remaining capacity with experts.

A `PlacementProblem` comes in, the fastest `LayerAssignment` that fits goes out. For one or two devices all splits are
tried, for more only those near a good one. A split is first rated as if experts could be divided at any byte; only the
best few are then filled with whole tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from qwenctl.placement.expert_knapsack import pack_experts
from qwenctl.placement.forecast import token_seconds
from qwenctl.placement.problem import PlacementProblem
from qwenctl.protocol.placement import CPU

# Up to this many devices all splits are tried; this many of the best splits are filled with whole tensors.
_EXHAUSTIVE_DEVICES, _MAX_FILLED = 2, 12


@dataclass(frozen=True)
class LayerAssignment:
    """A layout: which layer slots and which experts go to which device.

    Each device gets `counts` consecutive layer slots, in order, from slot `start` on; the CPU has those before.
    `experts` maps each tensor of routed experts to a device or "CPU". `reads` are bytes per token by memory with an
    empty context, `full_reads` with a full one; `seconds` is the predicted time per token.
    """

    counts: tuple[int, ...]
    start: int
    experts: Mapping[str, str]
    reads: Mapping[str, float]
    full_reads: Mapping[str, float]
    seconds: float
    has_cpu_experts: bool


@dataclass(frozen=True)
class PrefixSums:
    """Prefix sums over the layer slots of a problem, to rate a split without iterating over the slots.

    `resident` are bytes of weights and cache, `read` bytes read per token, `experts` bytes of experts; `fixed` and
    `fixed_reads` are the bytes of tensors fixed by constraints, by memory.
    """

    problem: PlacementProblem
    resident: tuple[int, ...]
    read: tuple[float, ...]
    experts: tuple[int, ...]
    fixed: Mapping[str, int]
    fixed_reads: Mapping[str, float]

    def remaining_capacity(self, counts: tuple[int, ...], start: int, *, mixed: bool) -> list[int] | None:
        """Bytes that each device has left for experts; None if one cannot hold its layers."""
        used, at, left = sum(1 for count in counts if count), start, []
        for number, count in enumerate(counts):
            name = self.problem.devices[number].name
            needed = self.resident[at + count] - self.resident[at] + self.fixed.get(name, 0)
            # A device that holds anything also needs compute buffers.
            if count or needed:
                needed += self.problem.device_compute(number, mixed=mixed, used=used) + self.problem.vision_bytes(
                    number
                )
            left.append(self.problem.capacity(number) - needed)
            at += count
        return left if min(left, default=0) >= 0 else None


def prefix_sums(problem: PlacementProblem) -> PrefixSums:
    """The prefix sums of a problem."""
    rows, fixed, reads = problem.layer_slots, dict[str, int](), dict[str, float]()
    for tensor in problem.inventory.tensors:
        name = problem.fixed.get(tensor.name)
        if name and problem.is_loaded(tensor):
            fixed[name] = fixed.get(name, 0) + tensor.n_bytes
            reads[name] = reads.get(name, 0.0) + tensor.n_bytes * problem.inventory.token_fraction(tensor)
    return PrefixSums(
        problem,
        tuple(accumulate((row.dense + row.cache for row in rows), initial=0)),
        tuple(accumulate((row.read for row in rows), initial=0.0)),
        tuple(accumulate((sum(size for _, size in row.experts) for row in rows), initial=0)),
        fixed,
        reads,
    )


def choose_layout(problem: PlacementProblem) -> LayerAssignment | None:
    """The fastest layout that fits; None if the constraints leave none."""
    sums = prefix_sums(problem)
    if not problem.devices:
        return fill_layout(sums, (), len(problem.layer_slots))
    rated = []  # at equal speed prefer fewer devices, then an even split, then more layers on the first device
    for counts in dict.fromkeys(_candidate_splits(sums)):
        start = len(problem.layer_slots) - sum(counts)
        if (seconds := estimate_token_seconds(sums, counts, start)) is not None:
            evenness = (sum(map(bool, counts)), _unevenness(problem, counts), tuple(-count for count in counts))
            rated.append((round(seconds, 9), evenness, counts, start))
    rated.sort()
    layouts = [fill_layout(sums, counts, start) for _, _, counts, start in rated[:_MAX_FILLED]]
    return min((layout for layout in layouts if layout), key=lambda layout: round(layout.seconds, 9), default=None)


def expert_capacity(sums: PrefixSums, counts: tuple[int, ...], start: int) -> tuple[list[int], bool] | None:
    """Bytes that each device has left for experts, and whether some experts must be in RAM; None if it does not fit."""
    # The bytes of all experts in each device's layers.
    at, sizes = start, []
    for count in counts:
        sizes.append(sums.experts[at + count] - sums.experts[at])
        at += count
    # The compute buffers depend on whether experts are in RAM. Assume first that they are not, and check that they fit.
    if not start and not sums.fixed.get(CPU):
        capacity = sums.remaining_capacity(counts, start, mixed=False)
        if capacity is not None and all(size <= free for size, free in zip(sizes, capacity, strict=True)):
            return capacity, False
    capacity = sums.remaining_capacity(counts, start, mixed=True)
    if capacity is None or (sums.problem.must_fill and any(a > b for a, b in zip(sizes, capacity, strict=True))):
        return None
    return capacity, True


def estimate_token_seconds(sums: PrefixSums, counts: tuple[int, ...], start: int) -> float | None:
    """Seconds per token if experts could be divided at any byte; None if it does not fit."""
    problem, at, placed = sums.problem, start, 0
    capacity = expert_capacity(sums, counts, start)
    if capacity is None:
        return None
    fraction = problem.inventory.shape.experts_used / max(1, problem.inventory.shape.experts)
    reads = dict(sums.fixed_reads)
    for number, (count, device_capacity) in enumerate(zip(counts, capacity[0], strict=True)):
        name, taken = problem.devices[number].name, min(device_capacity, sums.experts[at + count] - sums.experts[at])
        reads[name] = reads.get(name, 0.0) + sums.read[at + count] - sums.read[at] + taken * fraction
        at, placed = at + count, placed + taken
    reads[CPU] = reads.get(CPU, 0.0) + sums.read[start] + (sums.experts[-1] - placed) * fraction
    return token_seconds(problem.machine, reads, len(problem.layer_slots) - start)


def fill_layout(sums: PrefixSums, counts: tuple[int, ...], start: int) -> LayerAssignment | None:
    """The layout of a split, with whole expert tensors on the devices; None if it does not fit."""
    problem, capacity = sums.problem, expert_capacity(sums, counts, start)
    if capacity is None:
        return None
    experts, at = dict[str, str](), start
    for number, count in enumerate(counts):
        layers = [row.experts for row in problem.layer_slots[at : at + count] if row.experts]
        experts |= dict.fromkeys(pack_experts(layers, capacity[0][number]), problem.devices[number].name)
        at += count
    placed = {name: experts.get(name, CPU) for row in problem.layer_slots for name, _ in row.experts}
    return _make_layout(sums, counts, start, placed, mixed=capacity[1])


def _make_layout(
    sums: PrefixSums, counts: tuple[int, ...], start: int, experts: dict[str, str], *, mixed: bool
) -> LayerAssignment:
    problem = sums.problem
    fraction = problem.inventory.shape.experts_used / max(1, problem.inventory.shape.experts)
    reads, full = dict(sums.fixed_reads), dict[str, float]()
    slot_devices = [CPU] * start + [
        device.name for device, count in zip(problem.devices, counts, strict=True) for _ in range(count)
    ]
    for row, device_name in zip(problem.layer_slots, slot_devices, strict=True):
        reads[device_name] = reads.get(device_name, 0.0) + row.read
        full[device_name] = full.get(device_name, 0.0) + row.full_read
        for name, n_bytes in row.experts:
            reads[experts[name]] = reads.get(experts[name], 0.0) + n_bytes * fraction
    # With a full context, the KV cache is read in addition to everything else.
    full = {name: n_bytes + full.get(name, 0.0) for name, n_bytes in reads.items()} | {
        name: n_bytes for name, n_bytes in full.items() if name not in reads
    }
    seconds = token_seconds(problem.machine, reads, len(problem.layer_slots) - start)
    return LayerAssignment(counts, start, experts, reads, full, seconds, mixed)


def _candidate_splits(sums: PrefixSums) -> Iterator[tuple[int, ...]]:
    """The splits to consider: of all layers, or of as many as fit."""
    problem, constraints = sums.problem, sums.problem.constraints
    n_slots, devices = len(problem.layer_slots), len(problem.devices)
    max_layers = n_slots if constraints.gpu_layers < 0 else min(n_slots, constraints.gpu_layers)
    if constraints.split:
        yield from (
            _user_split(problem, count)
            for count in ([max_layers] if constraints.gpu_layers >= 0 else range(max_layers, -1, -1))
        )
        return
    # If the number of layers is not fixed, use the largest that fits, with each device filled in turn.
    fixed = constraints.gpu_layers >= 0 or problem.must_fill
    count = max_layers if fixed else next((n for n in range(max_layers, 0, -1) if _greedy_split(sums, n)), 0)
    yield from _all_splits(sums, count, devices)


def _greedy_split(sums: PrefixSums, count: int) -> tuple[int, ...] | None:
    """Split the last `count` layers, each device in turn taking as many as fit; None if not all fit."""
    rows, counts = len(sums.problem.layer_slots), list[int]()
    for _ in sums.problem.devices:
        left = count - sum(counts)
        counts.append(next((n for n in range(left, 0, -1) if expert_capacity(sums, (*counts, n), rows - count)), 0))
    return tuple(counts) if sum(counts) == count else None


def _all_splits(sums: PrefixSums, count: int, devices: int) -> Iterator[tuple[int, ...]]:
    """All splits of `count` layers among `devices`, or for more than two devices those near a good one."""
    if devices == 1:
        yield (count,)
    elif devices <= _EXHAUSTIVE_DEVICES:
        for first in range(count + 1):
            yield from ((first, *rest) for rest in _all_splits(sums, count - first, devices - 1))
    else:
        yield from _search_splits(sums, count)


def _search_splits(sums: PrefixSums, count: int) -> Iterator[tuple[int, ...]]:
    """Splits by capacity, by speed, greedily and on each device alone; then a local search from the fastest."""
    problem, start = sums.problem, len(sums.problem.layer_slots) - count
    free = [float(problem.capacity(number)) for number in range(len(problem.devices))]
    speeds = [capacity * (device.bandwidth or 1.0) for capacity, device in zip(free, problem.devices, strict=True)]
    single_device = [[float(number == target) for number in range(len(free))] for target in range(len(free))]
    candidates = [split_layers(count, weights) for weights in (free, speeds, *single_device)]
    candidates += [counts] if (counts := _greedy_split(sums, count)) else []
    yield from candidates
    best, previous = math.inf, math.inf
    while candidates:
        best, fastest = min((estimate_token_seconds(sums, split, start) or math.inf, split) for split in candidates)
        if best >= previous:
            return
        candidates, previous = list(_neighboring_splits(fastest)), best
        yield from candidates


def _neighboring_splits(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Splits in which layers have moved from one device to the next, or back."""
    for number in range(len(counts) - 1):
        for step in (1, -1, 2, -2, 4, -4, 8, -8, 16, -16):
            moved = (*counts[:number], counts[number] + step, counts[number + 1] - step, *counts[number + 2 :])
            if min(moved) >= 0:
                yield moved


def split_layers(count: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Split `count` layers by weights, as llama.cpp splits them by --tensor-split."""
    total = sum(weights) or 1
    # Layer i goes to the first device whose bound is above i / count.
    bounds = [part / total for part in accumulate(weights)]
    devices = [
        next((n for n, bound in enumerate(bounds) if bound > row / count), len(bounds) - 1) for row in range(count)
    ]
    return tuple(devices.count(number) for number in range(len(weights)))


def _user_split(problem: PlacementProblem, count: int) -> tuple[int, ...]:
    weights = [*problem.constraints.split, *([0.0] * (len(problem.devices) - len(problem.constraints.split)))]
    return split_layers(count, weights) if count else (0,) * len(weights)


def _unevenness(problem: PlacementProblem, counts: tuple[int, ...]) -> float:
    """How far the split is from the devices' shares of capacity: at equal speed the most even one is taken."""
    capacities = [problem.capacity(number) or 1 for number in range(len(counts))]
    shares = [count / sum(counts) if sum(counts) else 0.0 for count in counts]
    return sum(abs(share - capacity / sum(capacities)) for share, capacity in zip(shares, capacities, strict=True))
