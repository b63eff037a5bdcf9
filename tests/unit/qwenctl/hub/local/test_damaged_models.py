"""A model with a damaged header is still known by the lock file beside it, so that a check of all models finds it."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import pytest

from qwenctl.hub.local.installed import find_installed_models, listed_models, models_in
from qwenctl.hub.local.lock_file import LockedFile, LockedModel, add_to_lock
from tests.support.cached_models import cached_model


def header(path: Path, architecture: str = "qwen35moe") -> bytes:
    writer = gguf.GGUFWriter(path, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["magic", "architecture"])
@pytest.mark.parametrize("locked", [True, False])
def test_listed_model_in_a_cache_counts_with_a_damaged_header(damage: str, locked: bool, tmp_path: Path) -> None:
    cached_model(tmp_path, {"toy-Q4_K_M.gguf": header(tmp_path / "whole.gguf")}, locked=locked)
    [model] = find_installed_models([tmp_path])
    blob = model.path.resolve()
    data = blob.read_bytes()
    blob.write_bytes(b"X" + data[1:] if damage == "magic" else data.replace(b"qwen35moe", b"qwen35mof"))
    assert find_installed_models([tmp_path]) == []
    assert find_installed_models([tmp_path], damaged=True) == ([model] if locked else [])


def test_models_in_a_folder_are_its_files_and_what_its_lock_file_lists(tmp_path: Path) -> None:
    header(tmp_path / "a-Q8_0.gguf")
    header(tmp_path / "tower.gguf", "clip")
    outputs = (LockedFile("b.gguf", 1, "0" * 64), LockedFile("mmproj.gguf", 1, "0" * 64))
    add_to_lock(tmp_path, LockedModel("toy", "", "", (), recipe="Q8_0", outputs=outputs, fingerprint="f"))
    assert [(one.repository, one.files) for one in models_in(tmp_path, [])] == [
        ("a-Q8_0", (tmp_path / "a-Q8_0.gguf",)),
        ("toy", (tmp_path / "b.gguf", tmp_path / "mmproj.gguf")),
    ]
    assert [one.path for one in listed_models(tmp_path)] == [tmp_path / "b.gguf"]
    assert listed_models(tmp_path / "nowhere") == []


def test_header_of_each_file_is_read_once(tmp_path: Path) -> None:
    model, tower = header(tmp_path / "whole.gguf"), header(tmp_path / "tower.gguf", "clip")
    files = {"toy-Q4_K_M.gguf": model, "toy-Q8_0.gguf": model + b"x", "mmproj-F16.gguf": tower}
    cached_model(tmp_path / "cache", files)
    opened: list[str] = []
    watched = [str(tmp_path / "cache")]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watched and str(arguments[0]).endswith(".gguf"):
            opened.append(Path(str(arguments[0])).name)

    sys.addaudithook(watch)  # it cannot be removed again, only made to do nothing
    assert len(find_installed_models([tmp_path / "cache"])) == 2
    watched.clear()
    assert sorted(opened) == sorted(files)
