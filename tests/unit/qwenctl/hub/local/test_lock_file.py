"""`qwenctl.lock.json` has the entries of all who write it, and replaces nothing that it does not understand."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import QwenctlError
from qwenctl.hub.local.lock_file import (
    LOCK_NAME,
    LockedFile,
    LockedModel,
    add_to_lock,
    change_lock,
    read_lock,
    write_lock,
)

WRITERS, ENTRIES = 4, 10


def model(quant: str) -> LockedModel:
    return LockedModel("owner/name", "c" * 40, quant, (LockedFile("a.gguf", 1, "0" * 64),))


def add(folder: Path, writer: int) -> None:
    """Add ENTRIES entries, and remove every fifth of them again."""
    for number in range(ENTRIES):
        quant = f"{writer}-{number}"
        add_to_lock(folder, model(quant))
        if number % 5 == 0:
            change_lock(folder, lambda models, quant=quant: [one for one in models if one.quant != quant])


def test_threads_that_write_at_once_lose_no_entry(tmp_path: Path) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda writer: add(tmp_path, writer), range(WRITERS)))
    expected = {f"{writer}-{number}" for writer in range(WRITERS) for number in range(ENTRIES) if number % 5}
    assert {one.quant for one in read_lock(tmp_path / LOCK_NAME)} == expected
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


@given(content=st.binary(max_size=50))
def test_file_that_is_no_lock_file_stays_under_another_name(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lock")
    (folder / LOCK_NAME).write_bytes(content)
    add_to_lock(folder, model("Q8_0"))
    assert (folder / f"{LOCK_NAME}.old").read_bytes() == content
    assert read_lock(folder / LOCK_NAME) == [model("Q8_0")]
    (folder / LOCK_NAME).write_text('{"format": 2}')  # of a later version
    add_to_lock(folder, model("Q8_0"))
    assert (folder / f"{LOCK_NAME}.old").read_bytes() == content
    assert (folder / f"{LOCK_NAME}.old1").read_text() == '{"format": 2}'


def test_file_that_is_no_lock_file_is_not_changed_by_a_removal(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("mine")
    change_lock(tmp_path, lambda models: models)
    assert (tmp_path / LOCK_NAME).read_text() == "mine"


def test_entry_with_the_same_key_is_replaced(tmp_path: Path) -> None:
    for quant in ("b", "a", "b"):
        add_to_lock(tmp_path, model(quant))
    assert [one.quant for one in read_lock(tmp_path / LOCK_NAME)] == ["a", "b"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1).filter(
    lambda name: name not in (".", "..")
)
FILES = st.builds(LockedFile, NAMES, st.integers(0, 1 << 50), st.text("0123456789abcdef", min_size=64, max_size=64))
LOCAL = st.builds(
    LockedModel, st.text(), st.sampled_from(["", "d" * 40]), st.just(""), st.just(()), recipe=st.text(),
    outputs=st.lists(FILES, min_size=1, max_size=3).map(tuple), version=st.text(), fingerprint=st.text(),
)  # fmt: skip


@given(made=st.lists(LOCAL, max_size=4, unique_by=lambda one: one.first_output))
def test_models_made_of_folders_are_read_as_written_and_older_versions_read_the_rest(
    made: list[LockedModel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lock")
    write_lock(folder / LOCK_NAME, [model("a"), *made])
    assert sorted(read_lock(folder / LOCK_NAME), key=repr) == sorted([model("a"), *made], key=repr)
    content = json.loads((folder / LOCK_NAME).read_bytes())
    assert [one["quant"] for one in content["models"]] == ["a"]  # where those look, and nothing else
    assert content.keys() == ({"format", "models", "local"} if made else {"format", "models"})


def made_model(name: str, digest: str, recipe: str = "Q8_0") -> LockedModel:
    outputs = (LockedFile(name, 1, digest * 64), LockedFile("mmproj.gguf", 1, digest * 64))
    return LockedModel("toy", "", "", (), recipe=recipe, outputs=outputs, fingerprint="f")


def test_last_made_file_of_a_name_counts_and_a_shared_mmproj_too(tmp_path: Path) -> None:
    for one in (made_model("a.gguf", "1"), made_model("b.gguf", "2"), made_model("a.gguf", "3", "Q4_K_M")):
        add_to_lock(tmp_path, one)
    found = {one.first_output: one for one in read_lock(tmp_path / LOCK_NAME)}
    assert found.keys() == {"a.gguf", "b.gguf"}
    assert found["a.gguf"].recipe == "Q4_K_M"
    assert [file.sha256[0] for file in found["b.gguf"].outputs] == ["2", "3"]


@pytest.mark.parametrize("path", ["../x", "/x", "a/b", "", ".."])
def test_output_outside_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    entry = {"repository": "toy", "commit": "", "recipe": "Q8_0", "version": "1", "fingerprint": "",
             "outputs": [{"path": path, "size": 1, "sha256": "0" * 64}]}  # fmt: skip
    (tmp_path / LOCK_NAME).write_text(json.dumps({"format": 1, "models": [], "local": [entry]}))
    with pytest.raises(QwenctlError):
        read_lock(tmp_path / LOCK_NAME)
