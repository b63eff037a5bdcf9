"""`qwenctl.lock.json` has the entries of all who write it, and replaces nothing that it does not understand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.hub.local.lock_file import LOCK_NAME, LockedFile, LockedModel, add_to_lock, change_lock, read_lock

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
