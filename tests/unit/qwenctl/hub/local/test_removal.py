"""Models are removed with what only they use; what others share stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.locks import file_lock
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, read_lock, write_lock
from qwenctl.hub.local.removal import remove_models
from tests.support.cached_models import REPOSITORY, cached_model


def test_last_model_of_a_repository_is_removed_with_its_folder(tmp_path: Path) -> None:
    model = cached_model(tmp_path, {"a.gguf": b"12345"}, locked=False)
    assert remove_models([model], []) == 5
    assert not (tmp_path / "models--owner--name").exists()


def test_file_that_another_model_shares_stays(tmp_path: Path) -> None:
    removed = cached_model(tmp_path, {"a.gguf": b"12345", "mmproj.gguf": b"1"}, locked=False)
    other = cached_model(tmp_path, {"b.gguf": b"123", "mmproj.gguf": b"1"}, "Q8_0", locked=False)
    assert remove_models([removed], [other]) == 5
    assert [path.is_file() for path in removed.files] == [False, True]
    assert [path.read_bytes() for path in other.files] == [b"123", b"1"]


def test_blob_that_another_commit_links_to_stays(tmp_path: Path) -> None:
    removed = cached_model(tmp_path, {"a.gguf": b"12345"}, commit="1" * 40, locked=False)
    other = cached_model(tmp_path, {"a.gguf": b"12345"}, commit="2" * 40, locked=False)
    assert remove_models([removed], [other]) == 0
    assert other.files[0].read_bytes() == b"12345"
    assert not removed.files[0].parent.exists()


def test_removed_model_leaves_the_lock_file_and_the_other_stays_in_it(tmp_path: Path) -> None:
    removed = cached_model(tmp_path, {"a.gguf": b"12345"})
    other = cached_model(tmp_path, {"b.gguf": b"123"}, "Q8_0")  # the lock file lists only this one now
    lock = other.files[0].with_name(LOCK_NAME)
    entry = LockedModel(REPOSITORY, removed.commit, removed.quant, (LockedFile("a.gguf", 5, "0" * 64),))
    write_lock(lock, [*read_lock(lock), entry])
    remove_models([removed], [other])
    assert [model.quant for model in read_lock(lock)] == ["Q8_0"]


def test_model_quantized_here_is_removed_and_its_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "made.gguf").write_bytes(b"1234")
    (tmp_path / "notes.txt").write_text("mine")
    model = InstalledModel(REPOSITORY, "Q4_K_M", "", (tmp_path / "made.gguf",), None)
    assert remove_models([model], []) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_model_that_is_being_pulled_is_not_removed(tmp_path: Path) -> None:
    model = cached_model(tmp_path, {"a.gguf": b"12345"})
    assert model.cache is not None
    with (
        file_lock(model.cache.lock_path, 0, lambda _: None),
        pytest.raises(QwenctlError, match="is pulling this model") as caught,
    ):
        remove_models([model], [])
    assert caught.value.code == ExitCode.TRY_AGAIN
    assert model.files[0].read_bytes() == b"12345"
