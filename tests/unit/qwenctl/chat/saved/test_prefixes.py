"""A prefix is one that is saved by that name, or a file; reading it is resumed, reported or announced as repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.prefixes import SavedPrefix, find_prefix, prefill_prefix
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.engine.interface import InferenceEngine, LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import Message, PrefillProgress, PrefixReady, Restored, Tools
from tests.support.chat_sessions import LOADED


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "prefixes", "prefix")


class ReadingEngine:
    """Reads a prefix as far as `ready` says; remembers what it was asked."""

    def __init__(self, ready: PrefixReady, restored: str = "") -> None:
        self._ready, self._reason = ready, restored
        self.read: list[tuple[tuple[Message, ...], Path, Tools]] = []

    def restore(self, path: Path) -> Restored:
        return Restored(0, self._reason)

    def read_prefix(self, messages: Any, *, state_path: Path, tools: Tools) -> Iterator[PrefillProgress | PrefixReady]:
        self.read.append((tuple(messages), state_path, tools))
        yield self._ready

    def cancel(self) -> None:
        """Nothing runs."""


def follow(events: Iterator[PrefillProgress | PrefixReady]) -> PrefixReady:
    last = list(events)[-1]
    assert isinstance(last, PrefixReady)
    return last


def prefill(engine: ReadingEngine, prefix: SavedPrefix, tools: Tools = ()) -> str:
    model = LoadedEngine(cast("InferenceEngine", engine), LOADED)
    return prefill_prefix(model, Path("toy.gguf"), prefix, tools, follow)


def save(store: SessionStore, name: str, text: str) -> None:
    opened = store.open(name)
    opened.save(Conversation().with_system(text), Path("toy.gguf"), LOADED)
    opened.close()


def test_name_of_a_saved_prefix_wins(store: SessionStore) -> None:
    save(store, "handbook", "All rules.")
    found = find_prefix(store, "handbook", "", None)
    assert (found.text, found.name, found.is_new) == ("All rules.", "handbook", False)


def test_saved_prefix_with_another_system_prompt_is_refused(store: SessionStore) -> None:
    save(store, "handbook", "All rules.")
    with pytest.raises(QwenctlError, match="already has a system prompt"):
        find_prefix(store, "handbook", "Be brief.", None)


@pytest.mark.parametrize(("system", "text"), [("", "All rules."), ("Be brief.", "Be brief.\n\nAll rules.")])
def test_file_is_the_prefix_after_the_system_prompt(
    system: str, text: str, store: SessionStore, tmp_path: Path
) -> None:
    (tmp_path / "rules.md").write_text("All rules.")
    found = find_prefix(store, str(tmp_path / "rules.md"), system, None)
    assert (found.text, found.name, found.is_new) == (text, "", False)
    saved = find_prefix(store, str(tmp_path / "rules.md"), system, "rules")
    assert (saved.text, saved.name, saved.is_new) == (text, "rules", True)


def test_files_of_a_folder_are_named_and_fenced(store: SessionStore, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "code" / name).write_text(f"x = '{name}'\n")
    text = find_prefix(store, str(tmp_path / "code"), "", None).text
    assert text.index("a.py:\n```") < text.index("x = 'a.py'") < text.index("b.py:\n```")


def test_unknown_name_is_refused_with_saved_ones(
    store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(store, "handbook", "All rules.")
    with pytest.raises(QwenctlError, match="no saved prefix is named 'handbok'") as caught:
        find_prefix(store, "handbok", "", None)
    assert caught.value.hint == "available: handbook"


def test_prefix_without_a_name_is_not_read_before_the_first_question(store: SessionStore) -> None:
    engine = ReadingEngine(PrefixReady(1, 1))
    assert prefill(engine, SavedPrefix("text", "", store)) == ""
    assert engine.read == []


def test_new_prefix_is_saved_and_read_as_a_system_message(store: SessionStore) -> None:
    engine = ReadingEngine(PrefixReady(9, 9))
    assert prefill(engine, SavedPrefix("All rules.", "rules", store, is_new=True)) == ""
    assert store.load("rules").conversation.system == "All rules."
    [(messages, file, _)] = engine.read
    assert [(message.role, message.content) for message in messages] == [("system", "All rules.")]
    assert file == store.state_file("rules")


def test_each_set_of_functions_has_a_state_of_its_own(store: SessionStore) -> None:
    engine = ReadingEngine(PrefixReady(9, 9))
    for names in ((), ("a",), ("b",), ("a",)):
        prefill(engine, SavedPrefix("text", "rules", store), tuple({"function": {"name": name}} for name in names))
    files = [file for _, file, _ in engine.read]
    assert (len(set(files)), files[1] == files[3]) == (3, True)
    assert all(file.parent == files[0].parent for file in files)


def test_reading_that_is_stopped_says_how_far_it_came(store: SessionStore) -> None:
    with pytest.raises(QwenctlError, match="stopped after 1,000 of 9,000 tokens") as caught:
        prefill(ReadingEngine(PrefixReady(1000, 9000)), SavedPrefix("text", "rules", store))
    assert caught.value.code == ExitCode.INTERRUPTED


def test_prefix_that_could_not_be_saved_or_restored_is_told(store: SessionStore) -> None:
    save(store, "rules", "text")
    prefix = SavedPrefix("text", "rules", store)
    assert prefill(ReadingEngine(PrefixReady(9, 9, "disk full")), prefix) == "the prefix was not saved: disk full"
    store.state_file("rules").write_bytes(b"state")
    again = prefill(ReadingEngine(PrefixReady(9, 9), "another model"), prefix)
    assert again == "the prefix 'rules' was evaluated again: another model"
