"""What a user gives as a model: a path stays a path, and a name is looked for among the models that are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.resolve_model import resolve_model_path


@pytest.mark.parametrize("text", ["missing.gguf", "/nowhere/model", "./model", "../model"])
def test_text_that_can_only_be_a_path_is_returned_whether_it_exists_or_not(text: str) -> None:
    assert resolve_model_path(text) == Path(text)


def test_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model_path("~/model") == tmp_path / "model"


def test_existing_file_wins_over_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen3.5-35b-a3b").write_bytes(b"")
    assert resolve_model_path("qwen3.5-35b-a3b") == Path("qwen3.5-35b-a3b")


def test_name_of_no_installed_model_is_refused_with_the_command_that_pulls_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(QwenctlError, match="not on this machine") as caught:
        resolve_model_path("qwen3.5-35b-a3b")
    assert (caught.value.code, caught.value.hint) == (ExitCode.NO_INPUT, "qwenctl pull qwen3.5-35b-a3b")
