"""A few of the mutations of `tests.faults.mutations`, which tries any number of them by hand."""

from __future__ import annotations

import random

import pytest

from tests.support.cli_runner import Result
from tests.support.mutations import change_json, problem, run_mutations


def test_mutated_files_end_with_a_documented_exit_code_and_one_line() -> None:
    assert run_mutations(40, seed=10_000) == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, b"qwenctl: error: internal error\n"), (65, b"Traceback (most recent call last):\n"), (65, b""),
        (99, b"qwenctl: error: x\n"), (65, b"qwenctl: error: x\nqwenctl: error: y\n"),
    ],
)  # fmt: skip
def test_bad_ending_is_a_problem(code: int, text: bytes) -> None:
    assert problem(Result(code, b"", text))
    assert not problem(Result(65, b"", b"qwenctl: error: x\n  hint: y\n"))


def test_change_of_json_is_another_object() -> None:
    data = b'{"a": {"b": [1, 2]}, "c": 3}'
    assert any(change_json(data, random.Random(seed)) != data for seed in range(5))
