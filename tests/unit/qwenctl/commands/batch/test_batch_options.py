"""Numbers that only `qwenctl batch` has: what they mean, and what is an error of usage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from qwenctl.commands.batch.batch_options import Limit, Parallel, Sample, Timeout, answers_path


def parse(annotation: Any, text: str) -> int:
    """What the parser of an annotated option makes of `text`."""
    number = get_args(annotation)[1].parser(text)
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize(("text", "number"), [("auto", 0), ("0", 0), ("1", 1), ("254", 254)])
def test_parallel_is_a_number_or_auto(text: str, number: int) -> None:
    assert parse(Parallel, text) == number


@pytest.mark.parametrize("text", ["255", "-1", "x", "1.5", "00"])
def test_parallel_out_of_range_is_an_error_of_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse(Parallel, text)


@pytest.mark.parametrize("option", [Limit, Sample, Timeout])
def test_counts_begin_at_one(option: Any) -> None:
    assert parse(option, "1") == 1
    for text in ("0", "-1", str(2**31), "ten"):
        with pytest.raises(typer.BadParameter):
            parse(option, text)


@pytest.mark.parametrize(
    ("source", "name"), [("in.jsonl", "in.answers.jsonl"), ("a/b.txt", "b.answers.jsonl"), ("-", "answers.jsonl")]
)
def test_answers_in_a_folder_are_named_after_the_input(source: str, name: str, tmp_path: Path) -> None:
    assert answers_path(str(tmp_path), source) == f"{tmp_path}/{name}"
    assert answers_path(f"{tmp_path}/new/", source) == f"{tmp_path}/new/{name}"
    assert (answers_path("-", source), answers_path("out.jsonl", source)) == ("-", "out.jsonl")
