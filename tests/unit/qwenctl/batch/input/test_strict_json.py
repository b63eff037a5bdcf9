"""A line of JSON is read in memory and time of its own size, and its depth is counted as a plain scanner counts it."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.batch.input.readers import InputFormat, read_items
from qwenctl.batch.input.strict_json import BadLine, parse_object
from qwenctl.batch.records import GenerationParams, Record, record_fingerprint

_VALUES = st.recursive(
    st.none() | st.booleans() | st.text(alphabet='a"\\[]{}\n', max_size=8) | st.integers(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\[{', max_size=3), inner, max_size=3),
    max_leaves=12,
)


def too_deep(text: str) -> int | None:
    """The column of the first bracket below a hundred levels, found one character at a time; None if there is none."""
    depth, in_string, escaped = 0, False, False
    for column, character in enumerate(text, 1):
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        else:
            depth += (character in "[{") - (character in "]}")
            if depth > 100:
                return column
    return None


@given(_VALUES, st.integers(80, 105))
def test_depth_is_counted_as_a_plain_scanner_counts_it(value: object, around: int) -> None:
    text = '{"a": ' + "[" * around + json.dumps(value) + "]" * around + "}"
    column = too_deep(text)
    if column is None:
        assert parse_object(text.encode())[1] == text
    else:
        with pytest.raises(BadLine, match="levels of brackets") as caught:
            parse_object(text.encode())
        assert caught.value.column == column


@pytest.mark.parametrize("unit", ["x", "\\n", '\\"', "[{"])
def test_large_record_takes_memory_of_a_few_times_its_size(unit: str) -> None:
    data = b'{"prompt": "' + unit.encode() * ((4 << 20) // len(unit)) + b'"}'
    tracemalloc.start()
    try:
        parse_object(data)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", ["word ", "a\\n", "[{"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_large_record_is_read_and_named_in_memory_of_a_few_times_its_size(unit: str, end: bytes) -> None:
    data = b'{"id": "a", "prompt": "' + unit.encode() * ((4 << 20) // len(unit.encode())) + b'"}' + end
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        for record in read_items(stream, "in", InputFormat("jsonl", GenerationParams())):
            assert isinstance(record, Record)
            record_fingerprint(record, 0, {})
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ['{"a": ' + "[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a": NaN, "b": ' + "[" * 101]
)
def test_nesting_that_no_parser_gets_through_is_reported_with_its_column(text: str) -> None:
    with pytest.raises(BadLine, match="levels of brackets") as caught:
        parse_object(text.encode())
    assert caught.value.column == too_deep(text)
