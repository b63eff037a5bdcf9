"""The keyboard of a program that is not at a prompt: what was typed before and meanwhile comes out, in order."""

from __future__ import annotations

import os
import pty
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.terminal import keyboard as module
from qwenctl.terminal.keyboard import Keyboard


@contextmanager
def terminal_as_stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a terminal that is not this process's own; yields the descriptor of its other end."""
    outer, inner = pty.openpty()
    with monkeypatch.context() as patched, os.fdopen(inner, encoding="utf-8") as stdin:
        patched.setattr(module.sys, "stdin", stdin)
        patched.setattr(module, "_is_in_foreground", lambda: True)
        yield outer
    os.close(outer)


def test_keys_typed_before_keep_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stdin(monkeypatch) as outer:
        os.write(outer, b"typed\r")
        with Keyboard() as keyboard:
            assert keyboard.take() == "typed\r"
            assert keyboard.take() == ""


def test_lines_that_come_at_once_are_a_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stdin(monkeypatch) as outer:
        os.write(outer, b"one\rtwo\r")
        with Keyboard() as keyboard:
            assert keyboard.take() == "\x1b[200~one\rtwo\r\x1b[201~"
            with keyboard.collect():
                time.sleep(0.3)
                os.write(outer, b"three\r")
                time.sleep(0.3)
                os.write(outer, b"four\r")
            assert keyboard.take() == "three\rfour\r"


def test_ctrl_c_does_not_flush_and_the_settings_return(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stdin(monkeypatch) as outer:
        before = termios.tcgetattr(outer)
        with Keyboard():
            inside = termios.tcgetattr(outer)[3]
            assert inside & termios.NOFLSH
            assert not inside & (termios.ECHO | termios.ICANON)
        assert termios.tcgetattr(outer) == before


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x03\x1a\x1c\x11\x13\x16\x0f\x12\x00\r\n"))))
def test_keys_that_come_while_collecting_come_out_in_order(pieces: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, terminal_as_stdin(monkeypatch) as outer, Keyboard() as keyboard:
        with keyboard.collect():
            for piece in pieces:
                os.write(outer, piece.encode())
        assert keyboard.take() == "".join(pieces)


def test_more_than_the_terminals_queue_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stdin(monkeypatch) as outer, Keyboard() as keyboard:
        text = b"x" * 100_000
        with keyboard.collect():
            left = text
            while left:
                left = left[os.write(outer, left) :]
        assert len(keyboard.take()) == len(text)


def test_paste_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal_as_stdin(monkeypatch) as outer, Keyboard() as keyboard:
        with keyboard.collect():
            os.write(outer, b"\x1b[200~one\r")
        threading.Timer(0.2, os.write, (outer, b"two\r\x1b[201~")).start()
        assert keyboard.take() == "\x1b[200~one\rtwo\r\x1b[201~"


def test_keyboard_without_a_terminal_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, encoding="utf-8") as nothing:
        monkeypatch.setattr(module.sys, "stdin", nothing)
        with Keyboard() as keyboard, keyboard.collect():
            assert keyboard.take() == ""
