"""Typing a line in a chat: what each key does, and what the history file saves."""

from __future__ import annotations

import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import DummyOutput

from qwenctl.chat.interactive.line_input import LineInput, ask, open_history
from qwenctl.files.pasted_paths import find_mentions

ENTER, ALT_ENTER, CTRL_J, CTRL_C, CTRL_D, TAB, UP = "\r", "\x1b\r", "\n", "\x03", "\x04", "\t", "\x1b[A"
CTRL_G, CTRL_R, CTRL_SPACE = "\x07", "\x12", "\x00"
PASTE = "\x1b[200~{}\x1b[201~"


def typed(keys: str, folder: Path | None = None) -> str:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        read = LineInput(open_history(folder))
        keyboard.send_text(keys)
        return read()


@contextmanager
def timeout_after(seconds: int) -> Iterator[None]:
    """Fail a prompt that never ends, instead of waiting for it."""

    def fail(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello" + ENTER, "hello"),
        ("one" + ALT_ENTER + "two" + ENTER, "one\ntwo"),
        ("one" + CTRL_J + "two" + ENTER, "one\ntwo"),
        ('"""one"""' + ENTER, "one"),
        ('say """' + ENTER, 'say """'),
        (PASTE.format("one\rtwo\r\nthree\n") + " four" + ENTER, "one\ntwo\nthree\n four"),
        ("one\r/quit\r\rthree\r" + CTRL_C + "kept" + ENTER, "kept"),  # a paste that the terminal did not mark
        ("x\r" * 10_000 + CTRL_C + "kept" + ENTER, "kept"),
        (PASTE.format("/quit\r") + CTRL_C + "kept" + ENTER, "kept"),
        ("wrong" + CTRL_C + "right" + ENTER, "right"),
        ("ab" + CTRL_D + ENTER, "ab"),
        ("/he" + TAB + ENTER, "/help"),
        ("/reg" + TAB + ENTER, "/regen"),
        ("/sy" + TAB + "Rhyme." + ENTER, "/system Rhyme."),
    ],
)
def test_typed_keys_give_expected_line(keys: str, line: str) -> None:
    assert typed(keys) == line


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (CTRL_R + "secon" + ENTER + ENTER, "the second"),
        (CTRL_R + "secon" + CTRL_J + ENTER, "the second"),
        (CTRL_R + "secon" + ALT_ENTER, "the second"),  # Escape accepts, Enter sends
        ("kept" + CTRL_R + "secon" + CTRL_G + ENTER, "kept"),
        ("kept" + CTRL_R + "secon" + CTRL_C + ENTER, "kept"),
        ("kept" + CTRL_R + "no such line" + CTRL_C + ENTER, "kept"),
        (CTRL_R + "first" + UP + ENTER + ENTER, "the first"),
        ("two" + ALT_ENTER + "lines" + CTRL_R + "first" + CTRL_C + ENTER, "two\nlines"),
        ("selected" + CTRL_SPACE + "\x01" + CTRL_G + ENTER, "selected"),  # leaves the selection, opens no editor
        (CTRL_R + "first" + ENTER + CTRL_C + "new" + ENTER, "new"),
        ("x\x1b5" + CTRL_C + "new" + ENTER, "new"),  # a count for the next command
    ],
)
def test_every_key_of_the_chat_ends_a_search_or_a_selection(tmp_path: Path, keys: str, line: str) -> None:
    for earlier in ("the first", "the second"):
        typed(earlier + ENTER, tmp_path)
    with timeout_after(10):
        assert typed(keys, tmp_path) == line


def typed_one_by_one(keys: str) -> str:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        pressed: list[KeyPress] = []
        for key in keys:
            Vt100Parser(pressed.append).feed(key)
        store_typeahead(keyboard, pressed)
        return LineInput(open_history(None))()


def test_block_between_quotation_marks_has_several_lines() -> None:
    assert typed_one_by_one('"""one' + ENTER + "two" + ENTER + '"""' + ENTER) == "one\ntwo"


def test_paste_without_marks_is_one_input_that_enter_sends() -> None:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()), timeout_after(30):
        read = LineInput(open_history(None))
        keyboard.send_text("one" + ENTER + "/quit" + ENTER)
        threading.Timer(1, keyboard.send_text, (ENTER,)).start()
        assert read() == "one\n/quit\n"


def test_paste_does_not_answer_a_question() -> None:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()), timeout_after(30):
        keyboard.send_text("yes" + ENTER + "all" + ENTER + CTRL_C)
        with pytest.raises(KeyboardInterrupt):
            ask("run it? ")


def test_keys_before_a_question_wait_at_the_next_input_unsent() -> None:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        enter = KeyPress(Keys.ControlM)
        store_typeahead(keyboard, [KeyPress("x"), enter, KeyPress(Keys.BracketedPaste, "a\rb"), enter, enter])
        keyboard.send_text("yes" + ENTER)
        assert ask("run it? ") == "yes"
        keyboard.send_text(" later" + ENTER)
        assert LineInput(open_history(None))() == "x\na\nb later"


def test_ctrl_c_on_empty_line_raises_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        typed(CTRL_C)


def test_ctrl_d_on_empty_line_raises_end_of_file() -> None:
    with pytest.raises(EOFError):
        typed("x" + CTRL_C + CTRL_D)


def test_history_is_saved_and_readable_by_owner_only(tmp_path: Path) -> None:
    (tmp_path / "history").touch(0o644)
    typed("remember me" + ENTER, tmp_path)
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
    assert "remember me" in (tmp_path / "history").read_text()


def test_input_without_history_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed("secret" + ENTER) == "secret"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plain.txt", "two words.txt", "it's (1) & \\ more.txt", "ä.txt"])
def test_completed_mention_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    line = typed(f"What is @{tmp_path}/{name[0]}" + TAB + ENTER)
    assert find_mentions(line) == [str(tmp_path / name)]


def test_completion_without_readable_sessions_gives_nothing() -> None:
    def fail() -> list[str]:
        raise PermissionError

    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text("/load a" + TAB + ENTER)
        assert LineInput(open_history(None), fail)() == "/load a"


def test_full_disk_keeps_the_history_in_memory(tmp_path: Path) -> None:
    history = open_history(tmp_path)
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()  # cannot be written, as on a full disk; nor read
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        read = LineInput(history)
        keyboard.send_text("hello" + ENTER)
        assert read() == "hello"
        keyboard.send_text(UP + ENTER)
        assert read() == "hello"


def test_history_that_cannot_be_written_does_not_end_chat(tmp_path: Path) -> None:
    assert typed("hello" + ENTER, tmp_path / "missing") == "hello"
