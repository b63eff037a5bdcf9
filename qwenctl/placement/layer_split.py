"""Chooses which rows go to which device, and which experts to each device's rest.

A `PlacementProblem` comes in, the fastest `LayerAssignment` that has room goes out. With one or two devices all
divisions of the rows are looked at, with more those that lie near a good one. A division is first judged as if experts
could be cut anywhere; the best few are then filled with whole tensors.
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

_ALL_DIVISIONS, _TRIED = 2, 12


@dataclass(frozen=True)
class LayerAssignment:
    """`counts` of rows for each device, those from `start` on in order; `experts` names each one's device or "CPU"."""

    counts: tuple[int, ...]
    start: int
    experts: Mapping[str, str]
    reads: Mapping[str, float]
    full_reads: Mapping[str, float]
    seconds: float
    has_cpu_experts: bool


@dataclass(frozen=True)
class PrefixSums:
    """Running sums over the rows of a problem, so that a division is judged without going through them.

    `held` are bytes of weights and cache, `read` bytes for each token, `experts` those of experts; `fixed` and
    `fixed_reads` are of the tensors that wishes fix, by memory.
    """

    problem: PlacementProblem
    held: tuple[int, ...]
    read: tuple[float, ...]
    experts: tuple[int, ...]
    fixed: Mapping[str, int]
    fixed_reads: Mapping[str, float]

    def room(self, counts: tuple[int, ...], start: int, *, mixed: bool) -> list[int] | None:
        """Bytes that each device has left for experts; None if one has none for what it must hold."""
        used, at, left = sum(1 for count in counts if count), start, []
        for number, count in enumerate(counts):
            name = self.problem.devices[number].name
            held = self.held[at + count] - self.held[at] + self.fixed.get(name, 0)
            if count or held:
                held += self.problem.device_compute(number, mixed=mixed, used=used) + self.problem.vision(number)
            left.append(self.problem.room(number) - held)
            at += count
        return left if min(left, default=0) >= 0 else None


def prefix_sums(problem: PlacementProblem) -> PrefixSums:
    """The running sums of a problem."""
    rows, fixed, reads = problem.rows, dict[str, int](), dict[str, float]()
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
    """The fastest layout that has room, or None if what the wishes fix has none."""
    sums = prefix_sums(problem)
    if not problem.devices:
        return fill_layout(sums, (), len(problem.rows))
    judged = []  # of equals the one on few devices is taken, then the even one, then the first
    for counts in dict.fromkeys(_divisions(sums)):
        start = len(problem.rows) - sum(counts)
        if (seconds := estimate_token_seconds(sums, counts, start)) is not None:
            evenness = (sum(map(bool, counts)), _unevenness(problem, counts), tuple(-count for count in counts))
            judged.append((round(seconds, 9), evenness, counts, start))
    judged.sort()
    layouts = [fill_layout(sums, counts, start) for _, _, counts, start in judged[:_TRIED]]
    return min((one for one in layouts if one), key=lambda one: round(one.seconds, 9), default=None)


def expert_capacity(sums: PrefixSums, counts: tuple[int, ...], start: int) -> tuple[list[int], bool] | None:
    """Bytes that each device has left for experts, and whether some must lie in RAM; None without room."""
    at, sizes = start, []
    for count in counts:
        sizes.append(sums.experts[at + count] - sums.experts[at])
        at += count
    if not start and not sums.fixed.get(CPU):
        room = sums.room(counts, start, mixed=False)
        if room is not None and all(size <= free for size, free in zip(sizes, room, strict=True)):
            return room, False
    room = sums.room(counts, start, mixed=True)
    if room is None or (sums.problem.must_fill and any(a > b for a, b in zip(sizes, room, strict=True))):
        return None
    return room, True


def estimate_token_seconds(sums: PrefixSums, counts: tuple[int, ...], start: int) -> float | None:
    """Seconds of a token, if experts could be cut anywhere; None without room."""
    problem, at, placed = sums.problem, start, 0
    found = expert_capacity(sums, counts, start)
    if found is None:
        return None
    fraction = problem.inventory.shape.experts_used / max(1, problem.inventory.shape.experts)
    reads = dict(sums.fixed_reads)
    for number, (count, room) in enumerate(zip(counts, found[0], strict=True)):
        name, taken = problem.devices[number].name, min(room, sums.experts[at + count] - sums.experts[at])
        reads[name] = reads.get(name, 0.0) + sums.read[at + count] - sums.read[at] + taken * fraction
        at, placed = at + count, placed + taken
    reads[CPU] = reads.get(CPU, 0.0) + sums.read[start] + (sums.experts[-1] - placed) * fraction
    return token_seconds(problem.machine, reads, len(problem.rows) - start)


def fill_layout(sums: PrefixSums, counts: tuple[int, ...], start: int) -> LayerAssignment | None:
    """The layout of a division, its devices filled with whole tensors of experts; None without room."""
    problem, found = sums.problem, expert_capacity(sums, counts, start)
    if found is None:
        return None
    experts, at = dict[str, str](), start
    for number, count in enumerate(counts):
        layers = [row.experts for row in problem.rows[at : at + count] if row.experts]
        experts |= dict.fromkeys(pack_experts(layers, found[0][number]), problem.devices[number].name)
        at += count
    placed = {name: experts.get(name, CPU) for row in problem.rows for name, _ in row.experts}
    return _layout(sums, counts, start, placed, mixed=found[1])


def _layout(
    sums: PrefixSums, counts: tuple[int, ...], start: int, experts: dict[str, str], *, mixed: bool
) -> LayerAssignment:
    problem = sums.problem
    fraction = problem.inventory.shape.experts_used / max(1, problem.inventory.shape.experts)
    reads, full = dict(sums.fixed_reads), dict[str, float]()
    owners = [CPU] * start + [
        device.name for device, count in zip(problem.devices, counts, strict=True) for _ in range(count)
    ]
    for row, owner in zip(problem.rows, owners, strict=True):
        reads[owner] = reads.get(owner, 0.0) + row.read
        full[owner] = full.get(owner, 0.0) + row.full_read
        for name, n_bytes in row.experts:
            reads[experts[name]] = reads.get(experts[name], 0.0) + n_bytes * fraction
    full = {name: n_bytes + full.get(name, 0.0) for name, n_bytes in reads.items()} | {
        name: n_bytes for name, n_bytes in full.items() if name not in reads
    }
    seconds = token_seconds(problem.machine, reads, len(problem.rows) - start)
    return LayerAssignment(counts, start, experts, reads, full, seconds, mixed)


def _divisions(sums: PrefixSums) -> Iterator[tuple[int, ...]]:
    """Counts of rows for each device that are worth a look: of all rows, or of as many as have room."""
    problem, wishes = sums.problem, sums.problem.wishes
    rows, devices = len(problem.rows), len(problem.devices)
    most = rows if wishes.gpu_layers < 0 else min(rows, wishes.gpu_layers)
    if wishes.split:
        yield from (_by_split(problem, count) for count in ([most] if wishes.gpu_layers >= 0 else range(most, -1, -1)))
        return
    fixed = wishes.gpu_layers >= 0 or problem.must_fill
    count = most if fixed else next((n for n in range(most, 0, -1) if _greedy_split(sums, n)), 0)
    yield from _partitions(sums, count, devices)


def _greedy_split(sums: PrefixSums, count: int) -> tuple[int, ...] | None:
    """The last `count` rows, each device taking in turn as many as it has room for; None if they do not fit."""
    rows, counts = len(sums.problem.rows), list[int]()
    for _ in sums.problem.devices:
        left = count - sum(counts)
        counts.append(next((n for n in range(left, 0, -1) if expert_capacity(sums, (*counts, n), rows - count)), 0))
    return tuple(counts) if sum(counts) == count else None


def _partitions(sums: PrefixSums, count: int, devices: int) -> Iterator[tuple[int, ...]]:
    if devices == 1:
        yield (count,)
    elif devices <= _ALL_DIVISIONS:
        for first in range(count + 1):
            yield from ((first, *rest) for rest in _partitions(sums, count - first, devices - 1))
    else:
        yield from _near(sums, count)


def _near(sums: PrefixSums, count: int) -> Iterator[tuple[int, ...]]:
    """Divisions by room, by speed, in turn, on one device alone; from the fastest on those that moves make faster."""
    problem, start = sums.problem, len(sums.problem.rows) - count
    free = [float(problem.room(number)) for number in range(len(problem.devices))]
    speeds = [room * (device.bandwidth or 1.0) for room, device in zip(free, problem.devices, strict=True)]
    alone = [[float(number == one) for number in range(len(free))] for one in range(len(free))]
    found = [split_layers(count, weights) for weights in (free, speeds, *alone)]
    found += [counts] if (counts := _greedy_split(sums, count)) else []
    yield from found
    best, before = math.inf, math.inf
    while found:
        best, fastest = min((estimate_token_seconds(sums, one, start) or math.inf, one) for one in found)
        if best >= before:
            return
        found, before = list(_moved(fastest)), best
        yield from found


def _moved(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Divisions in which rows have gone from one device to the next, or back."""
    for number in range(len(counts) - 1):
        for step in (1, -1, 2, -2, 4, -4, 8, -8, 16, -16):
            moved = (*counts[:number], counts[number] + step, counts[number + 1] - step, *counts[number + 2 :])
            if min(moved) >= 0:
                yield moved


def split_layers(count: int, weights: Sequence[float]) -> tuple[int, ...]:
    """`count` rows divided by weights, as llama.cpp divides them by --tensor-split."""
    total = sum(weights) or 1
    bounds = [part / total for part in accumulate(weights)]
    owners = [
        next((n for n, bound in enumerate(bounds) if bound > row / count), len(bounds) - 1) for row in range(count)
    ]
    return tuple(owners.count(number) for number in range(len(weights)))


def _by_split(problem: PlacementProblem, count: int) -> tuple[int, ...]:
    weights = [*problem.wishes.split, *([0.0] * (len(problem.devices) - len(problem.wishes.split)))]
    return split_layers(count, weights) if count else (0,) * len(weights)


def _unevenness(problem: PlacementProblem, counts: tuple[int, ...]) -> float:
    """How far the rows are from being divided by the devices' room: of equals the most even is taken."""
    rooms = [problem.room(number) or 1 for number in range(len(counts))]
    shares = [count / sum(counts) if sum(counts) else 0.0 for count in counts]
    return sum(abs(share - room / sum(rooms)) for share, room in zip(shares, rooms, strict=True))
