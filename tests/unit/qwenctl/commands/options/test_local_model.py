"""The models on this machine that a name on the command line means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qwenctl.commands.options.local_model import find_installed, find_one_installed
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.resolve_model import resolve_model_path
from tests.support.cached_models import COMMIT, REPOSITORY, cached_model


@pytest.fixture(autouse=True)
def _installed(toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two quantizations of one repository, and one of them at two commits: the begin of a file is enough."""
    with toy_gguf.open("rb") as file:
        begin = file.read(1 << 16)
    cached_model(tmp_path, {"toy-Q4_K_M.gguf": begin}, locked=False)
    cached_model(tmp_path, {"toy-Q8_0.gguf": begin + b"1"}, locked=False)
    cached_model(tmp_path, {"toy-Q8_0.gguf": begin + b"2"}, commit="d" * 40, locked=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def names(text: str) -> list[str]:
    return [model.qualified_name for model in find_installed(text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 3), (REPOSITORY, 3), (f"{REPOSITORY}:Q4_K_M", 1), (f"{REPOSITORY}:q8_0", 2), ("toy-Q4_K_M", 1),
        (f"https://huggingface.co/{REPOSITORY}", 3), (f"hf.co/{REPOSITORY}:Q4_K_M", 1),
        (f"https://huggingface.co/{REPOSITORY}/blob/{COMMIT}/toy-Q8_0.gguf?download=true", 1),
        (f"https://huggingface.co/{REPOSITORY}/tree/{COMMIT}", 2),
    ],
)  # fmt: skip
def test_name_repository_or_file_finds_its_models(text: str, count: int) -> None:
    assert len(names(text)) == count


def test_commit_chooses_one_of_two_models_of_the_same_name() -> None:
    assert names(f"{REPOSITORY}@{'d' * 12}:Q8_0") == [f"{REPOSITORY}@{'d' * 12}:Q8_0"]


def test_unknown_revision_is_refused_as_such() -> None:
    name = f"{REPOSITORY}@{'e' * 12}:Q4_K_M"
    for find in (find_installed, resolve_model_path):
        with pytest.raises(QwenctlError, match=f"{REPOSITORY}:Q4_K_M is not here at revision {'e' * 12}") as caught:
            find(name)
        assert caught.value.hint == f"available: {REPOSITORY}@{'c' * 12}:Q4_K_M"


def test_other_generation_of_models_is_not_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    older = InstalledModel("Qwen/Qwen3.5-27B-GGUF", "Q8_0", "c" * 40, (Path("/x.gguf"),), None)
    monkeypatch.setattr("qwenctl.hub.local.installed.find_installed_models", lambda: [older])
    for name, hint in (
        ("Qwen/Qwen3.6-27B-GGUF:Q8_0", "qwenctl pull Qwen/Qwen3.6-27B-GGUF:Q8_0"),
        (
            "Qwen/Qwen3.5-27-GGUF:Q8_0",
            "`qwenctl pull Qwen/Qwen3.5-27-GGUF:Q8_0`, or use `-m Qwen/Qwen3.5-27B-GGUF:Q8_0`",
        ),
    ):
        with pytest.raises(QwenctlError) as caught:
            resolve_model_path(name)
        assert caught.value.hint == hint


def test_unknown_name_is_refused_with_what_is_here() -> None:
    with pytest.raises(QwenctlError, match="owner/other is not on this machine") as caught:
        find_installed("owner/other")
    assert caught.value.code == ExitCode.NO_INPUT
    assert caught.value.hint == f"available: {REPOSITORY}:Q4_K_M, {REPOSITORY}:Q8_0"


def test_name_of_several_models_is_refused_with_names_that_only_one_has() -> None:
    assert find_one_installed(f"{REPOSITORY}:Q4_K_M").quant == "Q4_K_M"
    with pytest.raises(QwenctlError, match="matches 2 models") as caught:
        find_one_installed(f"{REPOSITORY}:Q8_0")
    assert caught.value.hint.startswith(f"qwenctl show {REPOSITORY}@")


def test_paths_of_a_model_find_it_however_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_one_installed("toy-Q4_K_M").path
    monkeypatch.chdir(path.parent)
    for text in (str(path), path.name, f"./{path.name}", f"../{path.parent.name}/{path.name}", str(path.resolve())):
        assert [model.path for model in find_installed(text)] == [path]
        assert resolve_model_path(text).resolve() == path.resolve()


def test_file_that_is_not_listed_can_be_shown_but_not_removed(toy_gguf: Path, tmp_path: Path) -> None:
    copy = tmp_path / "my model.gguf"
    shutil.copy(toy_gguf, copy)
    assert find_one_installed(str(copy)).files == (copy,)
    with pytest.raises(QwenctlError, match="was neither pulled nor made here"):
        find_installed(str(copy))
    (tmp_path / "x.txt").touch()
    with pytest.raises(QwenctlError, match=r"is not a Qwen3\.5 model"):
        find_one_installed(str(tmp_path / "x.txt"))
