"""A file is written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenctl.files.atomic import read_object, write_object


def test_failed_write_leaves_old_file_unchanged(tmp_path: Path) -> None:
    write_object(tmp_path / "a", {"x": 1})
    with pytest.raises(TypeError):
        write_object(tmp_path / "a", {"x": object()})
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_object(tmp_path / "b") == {}
