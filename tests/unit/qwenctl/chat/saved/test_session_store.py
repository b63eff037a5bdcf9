"""The session store: saved conversations load unchanged, are private, and stay inside the folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.export import export_text
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.chat_sessions import (
    LOADED,
)

TALK = (
    Conversation(think=False, think_budget=7, sampling={"temperature": 0.5})
    .with_system("Be brief.")
    .with_user("Größe?\n日本")
    .with_answer("Yes.", "hm")
)


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def save(store: SessionStore, name: str, talk: Conversation = TALK) -> None:
    opened = store.open(name)
    opened.save(talk, Path("toy.gguf"), LOADED)
    opened.close()


def test_saved_conversation_is_loaded_unchanged(store: SessionStore) -> None:
    save(store, "first")
    session = store.load("first")
    assert session.conversation == TALK
    assert (session.model, session.fingerprint, session.template_sha256) == (str(Path.cwd() / "toy.gguf"), "f", "t")
    created = session.created
    save(store, "first", TALK.with_user("More?"))
    assert store.load("first").created == created
    assert store.names() == ["first"]


def test_session_files_are_readable_by_owner_only(store: SessionStore, tmp_path: Path) -> None:
    save(store, "first")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "sessions").rglob("*")}
    assert modes == {"first": 0o700, "conversation.json": 0o600, "lock": 0o600}


def test_new_session_name_has_topic_and_is_unique(store: SessionStore) -> None:
    name = store.new_name("What is the capital of France, please?")
    assert name.endswith("-what-is-the-capital-of-france")
    save(store, name)
    assert store.new_name("What is the capital of France, please?") == f"{name}-2"
    assert store.new_name("?!").endswith("-chat")
    opened = store.open(store.new_name("日本 ../../etc"))
    assert opened.name.endswith("-日本-etc")
    opened.close()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "x" * 81, "a\nb", "end."])
def test_session_name_outside_folder_is_refused(store: SessionStore, name: str) -> None:
    with pytest.raises(QwenctlError, match="cannot be the name of a saved conversation"):
        store.open(name)


def test_session_already_open_is_refused(store: SessionStore) -> None:
    opened = store.open("first")
    with pytest.raises(QwenctlError, match="is open in another qwenctl") as caught:
        store.open("first")
    assert caught.value.code == ExitCode.TRY_AGAIN
    opened.close()
    store.open("first").close()
    assert store.names() == []  # nothing was saved in it


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"messages": 7}', b"\xff", b'{"messages": [{"role": 1}]}'])
def test_damaged_session_is_refused_and_can_be_deleted(store: SessionStore, tmp_path: Path, data: bytes) -> None:
    save(store, "first")
    (tmp_path / "sessions" / "first" / "conversation.json").write_bytes(data)
    with pytest.raises(QwenctlError, match="the saved conversation 'first' is damaged") as caught:
        store.load("first")
    assert caught.value.code == ExitCode.BAD_DATA
    store.delete("first")
    assert store.names() == []


def test_missing_session_error_names_nearest(store: SessionStore) -> None:
    save(store, "2026-11-24-france")
    with pytest.raises(QwenctlError, match="no saved conversation is named 'france'") as caught:
        store.load("france")
    assert caught.value.hint == "available: 2026-11-24-france"


def test_role_that_is_unknown_here_can_be_shown_and_not_resumed(store: SessionStore, tmp_path: Path) -> None:
    save(store, "first")
    file = tmp_path / "sessions" / "first" / "conversation.json"
    file.write_text(file.read_text().replace('"role": "assistant"', '"role": "critic"'))
    talk = store.load("first", any_role=True).conversation
    assert [message.role for message in talk.messages] == ["system", "user", "critic"]
    assert "## Critic\n" in export_text(talk, "markdown")
    assert '"role": "critic"' in export_text(talk, "json")
    with pytest.raises(QwenctlError) as error:
        store.load("first")
    assert error.value.code == ExitCode.BAD_DATA
