"""Which records of the input are taken: all, the first ones, or a sample that a seed determines."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.batch.input.selection import count_records, open_source, select_records
from qwenctl.batch.records import GenerationParams, Record
from qwenctl.batch.specs import InputSpec
from qwenctl.errors import ExitCode, QwenctlError


def jsonl(count: int) -> bytes:
    return b"".join(json.dumps({"id": f"r{number}", "prompt": "hi"}).encode() + b"\n" for number in range(count))


def selected(count: int, **spec: int) -> list[str]:
    """The ids that are selected of `count` records r0, r1, ..."""
    given_input = InputSpec("in.jsonl", **spec)  # type: ignore[arg-type]  # only whole numbers are passed here
    items = select_records(given_input, given_input.format(GenerationParams()), io.BytesIO(jsonl(count)))
    return [item.key for item in items if isinstance(item, Record)]


def numbers(keys: Sequence[str]) -> list[int]:
    return [int(key.removeprefix("r")) for key in keys]


@given(count=st.integers(1, 60), sample=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_sample_has_its_size_is_in_input_order_and_repeats_by_seed(count: int, sample: int, seed: int) -> None:
    drawn = numbers(selected(count, sample=sample, seed=seed))
    assert len(drawn) == min(count, sample)
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(range(count))
    assert numbers(selected(count, sample=sample, seed=seed)) == drawn


def test_samples_of_many_seeds_take_each_record_about_equally_often() -> None:
    counts = [0] * 10
    for seed in range(1000):
        for number in numbers(selected(10, sample=3, seed=seed)):
            counts[number] += 1
    assert min(counts) > 240  # 300 expected, with a standard deviation of 14.5
    assert max(counts) < 360


def test_limit_takes_the_first_records() -> None:
    assert selected(5, limit=2) == ["r0", "r1"]
    assert selected(2, limit=5) == ["r0", "r1"]


def test_input_without_records_is_refused() -> None:
    with pytest.raises(QwenctlError, match=r"in\.jsonl has no records") as caught:
        selected(0)
    assert caught.value.code == ExitCode.BAD_DATA


@pytest.mark.parametrize(
    ("data", "spec", "count"),
    [
        (b"a\nb\n", InputSpec(), 2),
        (b"a\nb", InputSpec(), 2),
        (b"", InputSpec(), 0),
        (b"a\nb\nc\n", InputSpec(limit=2), 2),
        (b"a\nb\nc\n", InputSpec(sample=1), 1),
        (b"a\0b\0", InputSpec(kind="lines", null=True), 2),
        (b"text\nx\ny\n", InputSpec(kind="csv", prompt="{text}"), 2),
    ],
)
def test_records_of_a_file_are_counted_and_it_is_not_consumed(
    data: bytes, spec: InputSpec, count: int, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as stream:
        assert count_records(spec, stream) == count
        assert stream.read() == data


@pytest.mark.parametrize(("spec", "count"), [(InputSpec(), None), (InputSpec(limit=7), 7), (InputSpec(sample=3), 3)])
def test_records_of_a_pipe_are_as_many_as_are_wanted(spec: InputSpec, count: int | None) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    stream: BinaryIO
    with os.fdopen(reading, "rb") as stream:
        assert count_records(spec, stream) == count


def test_folder_as_input_is_refused_with_a_command_that_lists_its_files(tmp_path: Path) -> None:
    with pytest.raises(QwenctlError, match="is a folder") as caught, open_source(InputSpec(tmp_path)):
        pass
    assert caught.value.code == ExitCode.NO_INPUT
    assert caught.value.hint.startswith(f"find {tmp_path} -type f | qwenctl batch --files")
