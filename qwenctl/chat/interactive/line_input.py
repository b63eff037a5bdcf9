"""Reads what the user types, with editing, history and completion.

Keys come in, a complete input goes out. Enter sends it, except inside a block that starts with three quotation marks;
pasted text never sends it. Besides `slash_completion`, only this module of the chat knows prompt_toolkit.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import has_selection, is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.shortcuts import CompleteStyle

from qwenctl.chat.interactive.slash_completion import ChatCompleter
from qwenctl.terminal.keyboard import Keyboard
from qwenctl.terminal.pastes import BURST_S, PasteMarker
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
    return _LenientHistory(file)


class _LenientHistory(FileHistory):
    """A history that goes on in memory when its file cannot be written, as on a full disk, or read any more."""

    def load_history_strings(self) -> Iterable[str]:
        """Return the inputs in the file, the latest first; called by prompt_toolkit."""
        with suppress(OSError):
            return list(super().load_history_strings())
        return []

    def store_string(self, string: str) -> None:
        """Append `string` to the file; called by prompt_toolkit."""
        with suppress(OSError):
            super().store_string(string)


class LineInput:
    """Reads inputs from the terminal, one at a time; keys that `keyboard` holds come first.

    `sessions` names the saved conversations, for completion.
    """

    def __init__(
        self,
        history: History,
        sessions: Callable[[], Iterable[str]] = list,
        *,
        color: bool = True,
        keyboard: Keyboard | None = None,
    ) -> None:
        self._keyboard = keyboard or Keyboard()
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
        _mark_pastes(self._session.app.input, self._keyboard.pastes)

    def __call__(self, prefill: str = "") -> str:
        """Return the next input; the line starts with `prefill`.

        Raises KeyboardInterrupt for Ctrl-C on an empty line, EOFError for Ctrl-D on one.
        """
        _feed(self._session.app.input, self._keyboard.take())
        try:
            return replace_surrogates(strip_block_quotes(self._session.prompt("> ", default=prefill)))
        finally:
            self._keyboard.silence()


def ask(question: str, keyboard: Keyboard | None = None) -> str:
    """Ask the user for a short answer, outside the history.

    Keys typed before the question are not its answer: they wait at the next input, where nothing sends them.

    Raises KeyboardInterrupt for Ctrl-C, EOFError for Ctrl-D.
    """
    keyboard = keyboard or Keyboard()
    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    keys = session.app.input
    _mark_pastes(keys, keyboard.pastes)
    _feed(keys, keyboard.take())
    before = _without_enter(get_typeahead(keys))
    try:
        return replace_surrogates(session.prompt(question))
    finally:
        store_typeahead(keys, before + get_typeahead(keys))
        keyboard.silence()


class _BurstReader(PosixStdinReader):
    """Reads keys as they come; lines that come faster than anybody types are marked as a paste."""

    def __init__(self, descriptor: int, encoding: str, pastes: PasteMarker) -> None:
        super().__init__(descriptor, encoding=encoding)
        self.pastes = pastes

    def read(self, count: int = 1024) -> str:
        """Return the keys that have come; called by prompt_toolkit. After Enter, what follows at once belongs to it."""
        text = super().read(count)
        while "\r" in text and not self.closed and select.select([self.stdin_fd], [], [], BURST_S)[0]:
            text += super().read(1 << 16)
        return self.pastes.mark(text, time.monotonic())


def _mark_pastes(keys: Input, pastes: PasteMarker) -> None:
    """Have pastes marked in what is read from `keys`, even if the terminal does not mark them."""
    if isinstance(keys, Vt100Input):
        keys.stdin_reader = _BurstReader(keys.fileno(), keys.stdin.encoding, pastes)


def _feed(keys: Input, text: str) -> None:
    """Let the next prompt begin with the keys in `text`."""
    if not text or not isinstance(keys, Vt100Input):
        return
    parsed: list[KeyPress] = []
    parser = keys.vt100_parser  # its own: it knows an escape sequence or a paste whose end has not come
    feed, parser.feed_key_callback = parser.feed_key_callback, parsed.append
    try:
        parser.feed(text)
    finally:
        parser.feed_key_callback = feed
    store_typeahead(keys, parsed)


def _without_enter(keys: list[KeyPress]) -> list[KeyPress]:
    """Return `keys` with line starts in place of Enter, and none at the end."""
    lines = [KeyPress(Keys.ControlJ, "\n") if press.key == Keys.ControlM else press for press in keys]
    while lines and lines[-1].key == Keys.ControlJ:
        lines.pop()
    return lines


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
    # In a search (Ctrl-R) these keys end it, by prompt_toolkit's own bindings; ours would act on the hidden line.
    editing = ~is_searching

    @keys.add("enter", filter=editing)
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=editing)
    @keys.add("c-j", filter=editing)
    def start_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c", filter=editing)
    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")

    @keys.add("c-g", filter=editing & ~has_selection)
    def edit(event: KeyPressEvent) -> None:
        try:
            event.current_buffer.open_in_editor()
        except OSError:  # no temporary file can be written
            event.app.output.bell()

    return keys
