"""Reads what the user types, with editing, history and completion; and mutes the keyboard while the model answers.

Keys come in, a complete input goes out. Enter sends it, except inside a block that starts with three quotation marks;
pasted text never sends it. Besides `slash_completion`, only this module of the chat knows prompt_toolkit.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app_or_none
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import clear_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.shortcuts import CompleteStyle

from qwenctl.chat.interactive.slash_completion import ChatCompleter
from qwenctl.terminal.sanitize import replace_surrogates

_QUOTES = '"""'


def open_history(folder: Path | None) -> History:
    """Open the input history in `folder`, readable by its owner only.

    The history is in memory if `folder` is None or the file cannot be written.
    """
    if folder is None:
        return InMemoryHistory()
    file = folder / "history"
    try:
        # prompt_toolkit would create the file readable by other users.
        os.close(os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
        file.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)


class LineInput:
    """Reads inputs from the terminal, one at a time; `sessions` names the saved conversations, for completion."""

    def __init__(self, history: History, sessions: Callable[[], Iterable[str]] = list, *, color: bool = True) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=ChatCompleter(sessions),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            multiline=True,
            enable_suspend=True,
            key_bindings=_key_bindings(),
            prompt_continuation="  ",
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
        )

    def __call__(self, prefill: str = "") -> str:
        """Return the next input; the line starts with `prefill`.

        Raises KeyboardInterrupt for Ctrl-C on an empty line, EOFError for Ctrl-D on one.
        """
        return replace_surrogates(strip_block_quotes(self._session.prompt("> ", default=prefill)))


def ask(question: str) -> str:
    """Ask the user for a short answer, outside the history. Keys typed before the question are discarded.

    Raises KeyboardInterrupt for Ctrl-C, EOFError for Ctrl-D.
    """
    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    clear_typeahead(session.app.input)
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    return replace_surrogates(session.prompt(question))


@contextmanager
def suppress_echo() -> Iterator[None]:
    """Inside, keys are not echoed; the next prompt reads them unchanged.

    With the terminal's own line editing on, Enter would arrive as a line feed, which starts a line instead of sending
    the input, and Ctrl-D would not arrive at all.
    """
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = list(before)
    quiet[0] &= ~termios.ICRNL  # input flags: keep Enter a carriage return
    quiet[3] &= ~(termios.ECHO | termios.ICANON)

    def on_continue(*_: object) -> None:
        # A shell changes the terminal while the chat is stopped (Ctrl-Z). A running prompt restores it by itself.
        if get_app_or_none() is None and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp():
            termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)

    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    earlier = signal.signal(signal.SIGCONT, on_continue)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, earlier)
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def strip_block_quotes(text: str) -> str:
    """Remove the three quotation marks around `text`, if it has them."""
    stripped = text.strip()
    if stripped.startswith(_QUOTES) and stripped.endswith(_QUOTES) and len(stripped) >= 2 * len(_QUOTES):
        return stripped[len(_QUOTES) : -len(_QUOTES)].strip("\n")
    return text


def is_open_block(text: str) -> bool:
    """Whether `text` starts a block of several lines that has not ended."""
    return text.lstrip().startswith(_QUOTES) and strip_block_quotes(text) == text


def _key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def start_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")

    @keys.add("c-g")
    def edit(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys
