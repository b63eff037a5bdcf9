"""Which layers' experts a device takes when not all have room: as many bytes as can be.

Layers as lists of tensor sizes and the room come in; the chosen tensors go out: whole layers, the last ones first, and
of one more layer a part. This is a knapsack, solved exactly in units of a 65,536th of all bytes, so that more room
never takes less. A set of reachable sums is the bits of one whole number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

_UNITS = 1 << 16
Layer = tuple[tuple[str, int], ...]  # names and bytes of the tensors of a layer's experts


def pack_experts(layers: Sequence[Layer], room: int) -> list[str]:
    """The names of the tensors that are taken."""
    sizes = [sum(n_bytes for _, n_bytes in layer) for layer in layers]
    total = sum(sizes)
    if total <= room:
        return [name for layer in layers for name, _ in layer]
    if room <= 0:
        return []
    unit = max(1, total // _UNITS)
    units = [-(-size // unit) for size in sizes]
    best: tuple[int, int, tuple[int, ...]] = (_highest(_sums(units, -1)[-1], room // unit) * unit, -1, ())
    for number in _one_of_each_kind(layers):
        sums = _sums(units, number)[-1]
        for part in _parts(len(layers[number])):
            n_bytes = _bytes(layers[number], part)
            if n_bytes <= room:
                taken = n_bytes + _highest(sums, (room - n_bytes) // unit) * unit
                best = max(best, (taken, number, part), key=lambda one: one[0])
    _, left_out, part = best
    rest = room - (_bytes(layers[left_out], part) if part else 0)
    return _last_of_each_kind(layers, _chosen(units, left_out, rest // unit), left_out, part)


def _last_of_each_kind(layers: Sequence[Layer], whole: list[int], left_out: int, part: tuple[int, ...]) -> list[str]:
    """The names in the last layers of the same kinds as those chosen: they are as large, and lie side by side."""
    free: dict[tuple[int, ...], list[int]] = {}
    for number, layer in enumerate(layers):
        free.setdefault(_kind(layer), []).append(number)
    names = [name for number in whole for name, _ in layers[free[_kind(layers[number])].pop()]]
    if not part:
        return names
    layer = layers[free[_kind(layers[left_out])].pop()]
    return names + [layer[place][0] for place in part]


def _kind(layer: Layer) -> tuple[int, ...]:
    return tuple(n_bytes for _, n_bytes in layer)


def _bytes(layer: Layer, part: tuple[int, ...]) -> int:
    return sum(layer[place][1] for place in part)


def _one_of_each_kind(layers: Sequence[Layer]) -> Iterator[int]:
    """The first layer of each kind, by the sizes of its tensors: one of them is taken in part."""
    seen = set[tuple[int, ...]]()
    for number, layer in enumerate(layers):
        if (kind := _kind(layer)) not in seen:
            seen.add(kind)
            yield number


def _parts(tensors: int) -> Iterator[tuple[int, ...]]:
    """Some but not all tensors of a layer, by their places in it."""
    for count in range(1, tensors):
        yield from combinations(range(tensors), count)


def _sums(units: Sequence[int], left_out: int) -> list[int]:
    """After each layer the sums that can be reached with those before it, as bits."""
    reached = [1]
    for number, size in enumerate(units):
        reached.append(reached[-1] if number == left_out else reached[-1] | reached[-1] << size)
    return reached


def _highest(sums: int, limit: int) -> int:
    """The highest sum that is not above `limit`."""
    return (sums & ((1 << (limit + 1)) - 1)).bit_length() - 1


def _chosen(units: Sequence[int], left_out: int, limit: int) -> list[int]:
    """The layers that make the highest sum."""
    reached = _sums(units, left_out)
    rest, chosen = _highest(reached[-1], limit), []
    for number in range(len(units) - 1, -1, -1):
        size = units[number]
        if number != left_out and rest >= size and reached[number] >> (rest - size) & 1:
            chosen.append(number)
            rest -= size
    return chosen
