"""A plan as a picture: bars whose cells are in proportion to bytes, a table, and an SVG document."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.charts.plan import (
    FREE,
    TAKEN,
    BarSegment,
    bar_segments,
    forecast_line,
    memory_name,
    memory_table,
    render_plan,
)
from qwenctl.machine.profile import GIB
from qwenctl.placement.plan import CLASSES, MemoryPart, MemoryPlan
from tests.support.example_plan import EXAMPLE_PLAN, GPU, RAM


def test_bar_has_what_others_take_then_parts_then_what_is_free() -> None:
    assert bar_segments(RAM, 64) == (BarSegment(TAKEN, 16), BarSegment("routed experts", 16), BarSegment(FREE, 32))
    assert [(run.kind, run.cells) for run in bar_segments(GPU, 8)] == [
        ("attention", 2), ("routed experts", 2), ("KV cache", 1), (FREE, 3),
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(0, 1 << 34)), max_size=8),
    st.integers(0, 1 << 36), st.integers(0, 1 << 36), st.integers(1, 200),
)  # fmt: skip
def test_bar_is_as_wide_as_asked_and_its_cells_follow_bytes(
    parts: list[tuple[str, int]], taken: int, free: int, width: int
) -> None:
    memory = MemoryPlan("CUDA0", taken + free, free, tuple(MemoryPart(*part) for part in parts))
    runs = bar_segments(memory, width)
    assert all(run.cells > 0 for run in runs)
    assert sum(run.cells for run in runs) == width
    shown_bytes = max(memory.total_bytes, taken + memory.n_bytes)  # with paging, parts can be larger than what is free
    for run in runs:
        if run.kind in CLASSES:
            assert abs(run.cells - memory.of(run.kind) * width / shown_bytes) <= 1


@pytest.mark.parametrize(
    ("total", "free", "planned", "cells"),
    [
        (16, 8, 12, {TAKEN: 8, "routed experts": 12}),  # as with --paging
        (16, 0, 16, {TAKEN: 10, "routed experts": 10}),
        (16, 20, 18, {"routed experts": 18, FREE: 2}),  # more is free than there is
        (0, 0, 0, {FREE: 20}),
    ],
)
def test_bar_of_parts_that_do_not_fit_is_no_wider(total: int, free: int, planned: int, cells: dict[str, int]) -> None:
    memory = MemoryPlan("CPU", total * GIB, free * GIB, (MemoryPart("routed experts", planned * GIB),))
    assert {run.kind: run.cells for run in bar_segments(memory, 20)} == cells


def test_table_has_a_row_for_each_class_that_is_there_and_sums() -> None:
    rows = {name: cells for name, *cells in memory_table(EXAMPLE_PLAN)}
    assert list(rows) == ["", "attention", "routed experts", "KV cache", "total", "free before", "expert layers"]
    assert rows[""] == ["RAM", "CUDA0"]
    assert rows["attention"] == ["-", "8.00 GiB"]
    assert rows["total"] == ["16.0 GiB", "20.0 GiB"]
    assert rows["expert layers"] == ["0-11", "12-39"]


def test_table_of_a_dense_model_has_no_row_of_expert_layers() -> None:
    dense = replace(EXAMPLE_PLAN, memories=(MemoryPlan("CUDA0", GIB, GIB, (MemoryPart("feed-forward", 1),)),))
    assert [name for name, *_ in memory_table(dense)] == ["", "feed-forward", "total", "free before"]


def test_svg_has_a_bar_for_each_memory_and_a_legend_of_its_classes() -> None:
    root = ElementTree.fromstring(render_plan(EXAMPLE_PLAN))  # noqa: S314 - our own picture
    texts = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert any(text.startswith("Qwen3.5-35B: ") for text in texts if text)
    assert {"RAM", "CUDA0", "attention", "routed experts", "KV cache", "16.0 GiB of 64.0 GiB"} <= set(texts)
    assert "vision" not in texts


@pytest.mark.parametrize(("memory", "name"), [(RAM, "RAM"), (GPU, "CUDA0")])
def test_memory_has_the_name_that_a_person_gives_it(memory: MemoryPlan, name: str) -> None:
    assert memory_name(memory) == name


def test_speed_tells_both_contexts_and_the_limit() -> None:
    assert forecast_line(EXAMPLE_PLAN) == "50.0 tokens/s (40.0 with a full context), limited by RAM bandwidth"
