"""The list of saved conversations: a row of each, also of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.commands.chat.saved_list import list_row, list_text, print_list, row_text
from tests.support.chat_sessions import LOADED


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    """A conversation with a state of 2048 bytes, and one that is damaged."""
    found = SessionStore(tmp_path)
    for name in ("good", "damaged one"):
        opened = found.open(name)
        opened.save(Conversation().with_user("Hi").with_answer("Hello", ""), Path("/models/toy\x1b.gguf"), LOADED)
        opened.close()
    found.state_file("good").write_bytes(bytes(2000))
    (tmp_path / "damaged one" / "conversation.json").write_text("{")
    return found


def test_rows_are_lines_of_one_width_with_size_and_model(store: SessionStore) -> None:
    lines = {line[:11].strip(): line for line in list_text(store, as_json=False).splitlines()}
    assert lines["damaged one"] == "damaged one  damaged"
    assert "  2 messages   2.00 kB  /models/toy" in lines["good"]
    assert "\x1b" not in lines["good"]


def test_json_has_the_same_rows(store: SessionStore) -> None:
    rows = {row["name"]: row for row in json.loads(list_text(store, as_json=True))}
    assert rows["damaged one"] == {"name": "damaged one", "damaged": True, "state_bytes": 0}
    assert (rows["good"]["messages"], rows["good"]["state_bytes"]) == (2, 2000)


def test_empty_store_has_no_rows(tmp_path: Path) -> None:
    assert list_text(SessionStore(tmp_path / "none"), as_json=False) == ""
    assert json.loads(list_text(SessionStore(tmp_path / "none"), as_json=True)) == []


def test_empty_list_says_how_to_save_one(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for as_json in (False, True):
        print_list(SessionStore(tmp_path / "none"), "conversations", "qwenctl chat", as_json=as_json)
    done = capfdbinary.readouterr()
    assert (done.out, done.err) == (b"[]\n", b"no saved conversations\n  hint: qwenctl chat\n")


def test_time_is_shown_to_the_minute(store: SessionStore) -> None:
    row = {**list_row(store, "good"), "updated": "2026-01-02T03:04:05+00:00"}
    assert row_text(row).startswith("2026-01-02 03:04  ")
