"""Tab completion in a chat: slash commands, their arguments, and paths after an @.

The text before the cursor comes in; prompt_toolkit's completions go out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from qwenctl.chat.interactive.slash_commands import COMMANDS
from qwenctl.errors import QwenctlError
from qwenctl.models.sampling import SAMPLING_OPTIONS

_WORDS: Mapping[str, tuple[str, ...]] = {"/think": ("on", "off", "budget "), "/set": tuple(SAMPLING_OPTIONS)}
_MENTION = re.compile(r"(?<!\S)@((?:\\.|[^\s\\])*)\Z")
_SPECIAL = re.compile(r"[^\w/.~+,:@%-]")
_PATH_COMMANDS = ("/file", "/image", "/export")


class ChatCompleter(Completer):
    """Completes the text before the cursor; `sessions` returns the names of saved conversations, called on demand."""

    def __init__(self, sessions: Callable[[], Iterable[str]]) -> None:
        self._sessions = sessions
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the completions of the text before the cursor; called by prompt_toolkit."""
        typed = document.text_before_cursor
        command, space, argument = typed.partition(" ")
        if typed.startswith("/") and not space:
            yield from _complete_command(typed)
        elif command in _PATH_COMMANDS:
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif typed.startswith("/"):
            words = self._saved() if command in ("/load", "/delete") else _WORDS.get(command, ())
            yield from (Completion(word, -len(argument)) for word in words if word.startswith(argument))
        else:
            yield from self._complete_mention(typed, complete_event)

    def _saved(self) -> Iterable[str]:
        try:
            return self._sessions()
        except (OSError, QwenctlError):  # the folder cannot be read: no completions
            return ()

    def _complete_mention(self, typed: str, event: CompleteEvent) -> Iterable[Completion]:
        """Complete the path after the last @; special characters in it have backslashes, as terminals paste them."""
        if (mention := _MENTION.search(typed)) is None:
            return
        path = re.sub(r"\\(.)", r"\1", mention[1])
        for found in self._paths.get_completions(Document(path), event):
            yield Completion(_SPECIAL.sub(r"\\\g<0>", found.text), found.start_position, found.display)


def _complete_command(typed: str) -> Iterable[Completion]:
    for one in COMMANDS.values():
        if one.name.startswith(typed.lower()):
            text = f"{one.name} " if one.metavar else one.name
            yield Completion(text, start_position=-len(typed), display=one.name, display_meta=one.help)
