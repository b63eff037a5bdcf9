"""The summary of a plan adds up: rows by class and type, files, bits per weight and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize.plan import ConversionPlan, QuantizeOptions, make_plan
from quantize.recipe.tensor_classes import CLASSES
from quantize.summary import summarize


@pytest.fixture(scope="module")
def plan(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> ConversionPlan:
    return make_plan(toy, tmp_path_factory.mktemp("out") / "out.gguf", QuantizeOptions("Q4_K_M"))


def test_rows_add_up_to_all_tensors_and_bytes(plan: ConversionPlan) -> None:
    found = summarize(plan, 1)
    assert sum(row.tensors for row in found.rows) == len(found.tensors)
    assert sum(row.n_bytes for row in found.rows) == sum(tensor.n_bytes for tensor in found.tensors)
    assert len({(row.tensor_class, row.type_name) for row in found.rows}) == len(found.rows)


def test_rows_follow_the_order_of_classes_largest_type_first(plan: ConversionPlan) -> None:
    rows = summarize(plan, 1).rows
    keys = [(CLASSES.index(row.tensor_class), -row.n_bytes) for row in rows]
    assert keys == sorted(keys)


def test_file_sizes_include_headers_and_bits_do_not(plan: ConversionPlan) -> None:
    found = summarize(plan, 1)
    text = found.files[0]
    tensors = plan.text_files[0].tensors
    weights = sum(tensor.tensor.elements for tensor in tensors)
    assert text.n_bytes >= len(plan.text_files[0].header) + sum(tensor.n_bytes for tensor in tensors)
    assert text.bits_per_weight == pytest.approx(8 * sum(tensor.n_bytes for tensor in tensors) / weights)
    assert found.bits_per_weight == text.bits_per_weight  # the vision tower does not count


def test_smaller_type_needs_fewer_bytes_and_bits(plan: ConversionPlan, toy: Path, tmp_path: Path) -> None:
    small, large = summarize(plan, 1), summarize(make_plan(toy, tmp_path / "x.gguf", QuantizeOptions("Q8_0")), 1)
    assert small.n_bytes < large.n_bytes
    assert small.bits_per_weight < large.bits_per_weight == pytest.approx(8.5, abs=0.7)


def test_memory_grows_by_the_same_amount_with_each_thread(plan: ConversionPlan) -> None:
    one, two, three = (summarize(plan, threads).memory_bytes for threads in (1, 2, 3))
    assert two - one == three - two > 0
