"""Paths as terminals paste them are found, whatever characters the name has."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.chat.attachments import find_mentions, pasted_path

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12).filter(
    lambda name: "/" not in name and name not in (".", "..") and len(name.encode()) < 200
)


def escaped(path: Path) -> str:
    return "".join(letter if letter.isalnum() or letter == "/" else f"\\{letter}" for letter in str(path))


@given(NAMES)
def test_pasted_path_is_found(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{name}"
        path.touch()
        forms = [str(path), escaped(path), path.as_uri()]
        if "'" not in name:
            forms.append(shlex.quote(str(path)))
        assert {pasted_path(form) for form in forms} == {str(path)}
        assert find_mentions(f"What is in @{escaped(path)} ?") == [str(path)]


@pytest.mark.parametrize("form", ["@{escaped}", "@'{plain}'", '@"{plain}"', "@{url}", "@{url}."])
def test_mention_of_a_name_with_spaces_is_found(tmp_path: Path, form: str) -> None:
    path = tmp_path / "name with space.png"
    path.touch()
    line = "See " + form.format(escaped=escaped(path), plain=path, url=path.as_uri())
    assert find_mentions(line) == [str(path)]


def test_what_names_no_file_is_nothing() -> None:
    assert pasted_path("") == pasted_path("'") == pasted_path("file://") == pasted_path("/no/such/file") == ""
