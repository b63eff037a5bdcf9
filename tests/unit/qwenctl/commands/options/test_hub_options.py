"""Times on the command line, in seconds."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.commands.options.hub import parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("5 MIN", 300), ("2h", 7200), ("1.5h", 5400), ("0", 0)]
)
def test_time_is_parsed_with_its_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@given(st.integers(0, 10**6), st.sampled_from(["m", "h"]))
def test_larger_units_are_multiples_of_the_smaller(number: int, unit: str) -> None:
    smaller = {"m": "s", "h": "m"}[unit]
    assert parse_seconds(f"{number}{unit}") == parse_seconds(f"{60 * number}{smaller}")


@pytest.mark.parametrize("text", ["", "-1", "5x", "m", "1,5h", "1e3", "5m30s", "inf"])
def test_text_that_is_no_time_is_an_error_of_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a time such as 90, 90s, 5m or 2h"):
        parse_seconds(text)
