"""Chooses the experts that go to a device when not all fit: as many bytes as possible.

Layers, as lists of tensor sizes, and a capacity in bytes come in; the names of the chosen tensors go out: whole layers,
the last ones first, and part of one more layer. This is a knapsack problem, solved exactly in units of 1/65,536 of all
bytes, so that more capacity never yields less. A set of reachable sums is an integer: bit n is set if the sum n is
reachable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

_UNITS = 1 << 16
Layer = tuple[tuple[str, int], ...]  # (name, bytes) of each expert tensor of a layer


def pack_experts(layers: Sequence[Layer], capacity: int) -> list[str]:
    """The names of the tensors to put on a device with `capacity` bytes."""
    sizes = [sum(n_bytes for _, n_bytes in layer) for layer in layers]
    total = sum(sizes)
    if total <= capacity:
        return [name for layer in layers for name, _ in layer]
    if capacity <= 0:
        return []
    unit = max(1, total // _UNITS)
    units = [-(-size // unit) for size in sizes]
    # (bytes taken, layer of which only a part is taken, that part). Start with whole layers only, then try to fill up
    # with each part of each layer; layers with equal sizes are interchangeable, so one of each size suffices. Sizes are
    # rounded up to units, so a choice never exceeds the capacity.
    best: tuple[int, int, tuple[int, ...]] = (
        _highest_sum(_reachable_sums(units, -1)[-1], capacity // unit) * unit,
        -1,
        (),
    )
    for number in _distinct_layers(layers):
        sums = _reachable_sums(units, number)[-1]
        for part in _proper_parts(len(layers[number])):
            n_bytes = _part_bytes(layers[number], part)
            if n_bytes <= capacity:
                taken = n_bytes + _highest_sum(sums, (capacity - n_bytes) // unit) * unit
                best = max(best, (taken, number, part), key=lambda choice: choice[0])
    _, left_out, part = best
    remaining = capacity - (_part_bytes(layers[left_out], part) if part else 0)
    return _prefer_last_layers(layers, _backtrack(units, left_out, remaining // unit), left_out, part)


def _prefer_last_layers(layers: Sequence[Layer], chosen: list[int], left_out: int, part: tuple[int, ...]) -> list[str]:
    """Replace the chosen layers by the last ones of the same sizes, which lie next to each other."""
    available: dict[tuple[int, ...], list[int]] = {}
    for number, layer in enumerate(layers):
        available.setdefault(_tensor_bytes(layer), []).append(number)
    names = [name for number in chosen for name, _ in layers[available[_tensor_bytes(layers[number])].pop()]]
    if not part:
        return names
    layer = layers[available[_tensor_bytes(layers[left_out])].pop()]
    return names + [layer[place][0] for place in part]


def _tensor_bytes(layer: Layer) -> tuple[int, ...]:
    """The sizes of a layer's tensors, which make layers interchangeable."""
    return tuple(n_bytes for _, n_bytes in layer)


def _part_bytes(layer: Layer, part: tuple[int, ...]) -> int:
    """Bytes of a part of a layer."""
    return sum(layer[place][1] for place in part)


def _distinct_layers(layers: Sequence[Layer]) -> Iterator[int]:
    """The first layer of each kind: candidates for the layer that is taken in part."""
    seen = set[tuple[int, ...]]()
    for number, layer in enumerate(layers):
        if (sizes := _tensor_bytes(layer)) not in seen:
            seen.add(sizes)
            yield number


def _proper_parts(tensors: int) -> Iterator[tuple[int, ...]]:
    """All proper, non-empty subsets of a layer's tensors, by index."""
    for count in range(1, tensors):
        yield from combinations(range(tensors), count)


def _reachable_sums(units: Sequence[int], left_out: int) -> list[int]:
    """The sums reachable with the first n layers, as bit sets, for each n; layer `left_out` is skipped."""
    reached = [1]
    for number, size in enumerate(units):
        # Shifting the bit set adds `size` to every sum in it.
        reached.append(reached[-1] if number == left_out else reached[-1] | reached[-1] << size)
    return reached


def _highest_sum(sums: int, limit: int) -> int:
    """The highest sum in the bit set `sums` that does not exceed `limit`."""
    return (sums & ((1 << (limit + 1)) - 1)).bit_length() - 1


def _backtrack(units: Sequence[int], left_out: int, limit: int) -> list[int]:
    """The layers whose sum is the highest that does not exceed `limit`, by backtracking through the bit sets."""
    reached = _reachable_sums(units, left_out)
    remaining, chosen = _highest_sum(reached[-1], limit), []
    for number in range(len(units) - 1, -1, -1):
        size = units[number]
        if number != left_out and remaining >= size and reached[number] >> (remaining - size) & 1:
            chosen.append(number)
            remaining -= size
    return chosen
