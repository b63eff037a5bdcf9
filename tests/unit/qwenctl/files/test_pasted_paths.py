"""Paths as terminals paste them are found, whatever characters the name has."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.files.pasted_paths import find_mentions, pasted_path, typed_path

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
        forms.append(shlex.quote(str(path)))
        assert {pasted_path(form) for form in (*forms, *(f"{form} " for form in forms[1:]))} == {str(path)}
        for form in forms[1:]:
            assert find_mentions(f"What is in @{form} ?") == [str(path)]


@pytest.mark.parametrize("form", ["@{escaped}", "@'{plain}'", '@"{plain}"', "@{url}", "@{url}."])
def test_mention_of_a_name_with_spaces_is_found(tmp_path: Path, form: str) -> None:
    path = tmp_path / "name with space.png"
    path.touch()
    line = "See " + form.format(escaped=escaped(path), plain=path, url=path.as_uri())
    assert find_mentions(line) == [str(path)]


def test_what_names_no_file_is_nothing() -> None:
    assert pasted_path("") == pasted_path("'") == pasted_path("file://") == pasted_path("/no/such/file") == ""


def test_apostrophes_of_the_question_begin_no_path(tmp_path: Path) -> None:
    path, other = tmp_path / "it's.txt", tmp_path / "b c.txt"
    path.touch()
    other.touch()
    line = f"Isn't @{path}'s text that of @'{other}', and @anne's that of @{escaped(path)}? Don't guess."
    (tmp_path / "it's.txt's").touch()
    assert find_mentions(line) == [f"{path}'s", str(other), str(path)]


def test_address_inside_quotes_is_no_second_path(tmp_path: Path) -> None:
    path = tmp_path / f"a @{tmp_path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(parents=True)
    assert find_mentions(f"@'{path}'") == [str(path)]


@given(NAMES)
def test_file_url_is_its_path_even_if_there_is_no_file(name: str) -> None:
    path = Path("/no such folder") / name
    assert typed_path(path.as_uri()) == str(path)
    assert typed_path(str(path)) == str(path)
