"""Properties of the parts of a plan for any sizes: expert packing, layer splits, and override patterns."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.placement.engine_args import overrides
from qwenctl.placement.expert_knapsack import Layer, pack_experts
from qwenctl.placement.layer_split import split_layers
from qwenctl.placement.memory_breakdown import format_ranges

SIZES = st.lists(st.tuples(*[st.integers(1, 1000)] * 3), max_size=5)
MEMORIES = st.sampled_from(["CPU", "GPU0", "GPU1"])
PARTS = ("ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight", "attn_q.weight")


def layers_of(sizes: list[tuple[int, ...]]) -> list[Layer]:
    return [tuple((f"blk.{n}.{at}", size) for at, size in enumerate(row)) for n, row in enumerate(sizes)]


def packed_bytes(layers: list[Layer], room: int) -> int:
    sizes = {name: n_bytes for layer in layers for name, n_bytes in layer}
    names = pack_experts(layers, room)
    assert len(names) == len(set(names))
    return sum(sizes[name] for name in names)


@given(SIZES, st.integers(0, 12_000))
def test_expert_packing_fills_most_of_device(sizes: list[tuple[int, ...]], room: int) -> None:
    layers = layers_of(sizes)
    taken = packed_bytes(layers, room)
    assert taken <= room
    sums = {0}
    for count in range(len(sizes) + 1):
        for whole in combinations(range(len(sizes)), count):
            n_bytes = sum(sum(sizes[number]) for number in whole)
            others = [sizes[number] for number in range(len(sizes)) if number not in whole]
            sums |= {n_bytes} | {n_bytes + sum(p) for row in others for k in (1, 2) for p in combinations(row, k)}
    assert taken == max(one for one in sums if one <= room)


@given(SIZES, st.integers(0, 12_000), st.integers(0, 2000))
def test_expert_packing_with_more_room_packs_no_less(sizes: list[tuple[int, ...]], room: int, more: int) -> None:
    layers = layers_of(sizes)
    assert packed_bytes(layers, room) <= packed_bytes(layers, room + more)


@given(st.dictionaries(st.tuples(st.integers(0, 20), st.sampled_from(PARTS)), MEMORIES))
def test_override_patterns_match_each_tensor_exactly_once(
    placed: dict[tuple[int, str], str],
) -> None:
    where = {f"blk.{layer}.{part}": memory for (layer, part), memory in placed.items()}
    found = overrides({**where, "output.weight": "GPU0"})
    for name in [f"blk.{layer}.{part}" for layer in range(22) for part in PARTS]:
        matching = [memory for pattern, memory in found if re.search(pattern, name)]
        assert matching == ([where[name]] if name in where else [])
    assert [memory for pattern, memory in found if re.search(pattern, "output.weight")] == ["GPU0"]
    assert not any(re.search(pattern, "xblk.1.output.weight_") for pattern, _ in found)


@given(st.integers(0, 80), st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_layer_split_assigns_every_layer(count: int, weights: list[float]) -> None:
    assert sum(split_layers(count, weights)) == count


@given(st.sets(st.integers(0, 70)))
def test_formatted_ranges_name_each_number_once(numbers: set[int]) -> None:
    named = []
    for run in filter(None, format_ranges(numbers).split(", ")):
        first, _, last = run.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)
