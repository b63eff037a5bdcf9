"""What is remembered of conversions: their hashes, and only for the plan that made them last."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from qwenctl.hub.local.registry import LocalConversion, find_hashes, register_conversion, registered_models


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalConversion:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "out.gguf").touch()
    return LocalConversion((str(tmp_path / "out.gguf"),), "toy", "", "Q8_0")


def test_hashes_are_those_of_the_last_plan_that_made_the_file(made: LocalConversion) -> None:
    path = Path(made.paths[0])
    assert find_hashes(path, "one") == ()
    register_conversion(made, "one", ["aa"])
    assert find_hashes(path, "one") == ("aa",)
    register_conversion(made, "two", ["bb"])
    assert (find_hashes(path, "one"), find_hashes(path, "two")) == ((), ("bb",))
    assert registered_models() == [made]


def test_entry_of_an_older_version_has_no_hashes(made: LocalConversion, tmp_path: Path) -> None:
    register_conversion(made, "one", ["aa"])
    [file] = (tmp_path / "state").rglob("models.jsonl")
    with file.open("a") as entries:
        entries.write(json.dumps({"made": {**asdict(made), "type_name": "Q4_0"}}) + "\n")
    assert find_hashes(Path(made.paths[0]), "one") == ()
    assert find_hashes(Path(made.paths[0]), "") == ()
    assert [model.type_name for model in registered_models()] == ["Q4_0"]


def test_entry_after_half_a_line_is_whole(made: LocalConversion, tmp_path: Path) -> None:
    register_conversion(made, "one", ["aa"])
    [file] = (tmp_path / "state").rglob("models.jsonl")
    with file.open("a") as entries:
        entries.write('{"made": {"paths": ["/x')  # as a full disk leaves it
    register_conversion(made, "two", ["bb"])
    assert find_hashes(Path(made.paths[0]), "two") == ("bb",)
    assert registered_models() == [made]
