"""Line numbers of TOML keys, checked against generated documents and tomllib."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qwenctl.settings.toml import find_deepest_key, find_key_lines, read_toml

BARE = st.text("abcXYZ019_-", min_size=1, max_size=4)
QUOTED = st.sampled_from(['"a.b"', "'[x]'", '"= #"', '"\\u00e9\\""', "''", '"\\\\"'])
# Values that look like keys, tables, comments, or ends of strings, on one line or several.
VALUES = st.sampled_from(
    [
        "1", "-1.5e3", "true", "2026-01-01T00:00:00Z", '"a = 1 # [b]"', "'c:\\'", '"\\\\"', '"\\""',
        '"""\na = 1\n[b]\n"""',
        '"""x"""', '"""\\"""\n"""', '"""a""""', '"""""""', "'''\n'a' = \"\n''''", '"""\\\n  a"""',
        "[\n 1, # one ]\n 2,\n]", "[[1], ['a = 2'], {b = 1}]", "{ a.b = 1, c = '}' }", "[\n'''\n]\n''',\n]", "0x1F",
    ]
)  # fmt: skip
NOISE = st.sampled_from(["", "# a = 1", "   ", "\t# [table]", "#'''"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str, ...], int]]:
    """A TOML document, and the line of each key in it outside of inline tables."""
    lines, found, tables = [], {}, [()]
    for number in range(draw(st.integers(0, 12))):
        lines.append(draw(NOISE))
        if draw(st.booleans()):
            path = (f"t{number}", draw(BARE))
            tables.append(path)
            lines.append(draw(st.sampled_from(["[{}.{}]", " [ {} . {} ] # [x]"])).format(*path))
            found |= {path[:1]: _line(lines), path: _line(lines)}
        else:
            key = draw(BARE | QUOTED)
            name = (f"k{number}", tomllib.loads(f"{key} = 1").popitem()[0])
            start = _line([*lines, ""])
            lines.append(f"k{number}.{key}{draw(st.sampled_from([' = ', '=']))}{draw(VALUES)}{draw(NOISE)}")
            found |= {(*tables[-1], *name[:1]): start, (*tables[-1], *name): start}
    return "\n".join(lines), found


def _line(lines: list[str]) -> int:
    """The line number that the last of `lines` ends on; each may span several lines."""
    return sum(line.count("\n") + 1 for line in lines)


@examples(max_examples=500)
@given(documents())
def test_toml_key_is_found_on_its_line(document: tuple[str, dict[tuple[str, ...], int]]) -> None:
    text, lines = document
    assert _paths(tomllib.loads(text)) >= lines.keys()
    assert {path: line for path, line in find_key_lines(text).items() if path in lines} == lines
    assert find_key_lines(text.replace("\n", "\r\n")) == find_key_lines(text)


def _paths(table: dict[str, Any], before: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    inner = [_paths(value, (*before, key)) for key, value in table.items() if isinstance(value, dict)]
    return {(*before, key) for key in table}.union(*inner)


@examples(max_examples=500)
@given(st.text(st.sampled_from("a.=[]{}'\"#\\\n\t 1,")))
def test_random_toml_text_gives_line_numbers_within_text(text: str) -> None:
    try:
        expected = _outside_of_inline(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        expected = set()
    assert find_key_lines(text).keys() >= expected
    assert all(1 <= line <= text.count("\n") + 1 for line in find_key_lines(text).values())
    assert find_deepest_key(text)[0] <= text.count(".") + 1


def _outside_of_inline(table: dict[str, Any]) -> set[tuple[str, ...]]:
    return {(key,) for key in table}


@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 100_000 + " = 1", '"' * 200_000, "'''" * 70_000, "[" * 200_000, "a=[\n" * 50_000, '"\\' * 100_000],
    ids=lambda text: text[:6],
)
def test_hostile_toml_is_refused_quickly(text: str, tmp_path: Path) -> None:
    """tomllib alone would need minutes and gigabytes for the first of these."""
    (tmp_path / "a.toml").write_text(text)
    assert read_toml(tmp_path / "a.toml").problem is not None
