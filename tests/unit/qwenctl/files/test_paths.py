"""Paths of outputs as they are typed, and the folders that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.files.paths import FolderPath, file_in_folder, missing_folder, parse_output


def test_slash_at_the_end_makes_a_folder_that_is_created(tmp_path: Path) -> None:
    plain, folder = parse_output(f"{tmp_path}/a"), parse_output(f"{tmp_path}/b/c/")
    assert (isinstance(plain, FolderPath), isinstance(folder, FolderPath)) == (False, True)
    with missing_folder(plain), missing_folder(folder), missing_folder(None):
        assert (plain.exists(), folder.is_dir()) == (False, True)
        (folder / "x").touch()
    assert (folder / "x").is_file()


def test_folder_that_stays_empty_is_removed_with_those_above(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), missing_folder(FolderPath(tmp_path / "a" / "b")):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
    with missing_folder(FolderPath(tmp_path)):
        pass
    assert tmp_path.is_dir()


def test_folder_as_an_output_gets_a_file_of_the_given_name(tmp_path: Path) -> None:
    assert file_in_folder(tmp_path, "a.txt") == tmp_path / "a.txt"
    assert file_in_folder(parse_output(f"{tmp_path}/new/"), "a.txt") == tmp_path / "new" / "a.txt"
    assert file_in_folder(tmp_path / "b.txt", "a.txt") == tmp_path / "b.txt"
