"""What Tab offers in a chat: slash commands and their arguments, and paths after an @."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from qwenctl.chat.interactive.slash_commands import COMMANDS
from qwenctl.models.sampling import SAMPLING_OPTIONS

_WORDS: Mapping[str, tuple[str, ...]] = {"/think": ("on", "off", "budget "), "/set": tuple(SAMPLING_OPTIONS)}
_TAKE_A_PATH = ("/file", "/image", "/export")


class ChatCompleter(Completer):
    """Completes the text before the cursor; `sessions` gives the names of sessions when they are needed."""

    def __init__(self, sessions: Callable[[], Iterable[str]]) -> None:
        self._sessions = sessions
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        command, space, argument = typed.partition(" ")
        if typed.startswith("/") and not space:
            yield from _commands(typed)
        elif command in _TAKE_A_PATH:
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif typed.startswith("/"):
            words = self._sessions() if command == "/load" else _WORDS.get(command, ())
            yield from (Completion(word, -len(argument)) for word in words if word.startswith(argument))
        else:
            yield from self._mentioned(typed, complete_event)

    def _mentioned(self, typed: str, event: CompleteEvent) -> Iterable[Completion]:
        word = typed.split()[-1] if typed.split() and not typed[-1].isspace() else ""
        if word.startswith("@"):
            yield from self._paths.get_completions(Document(word[1:]), event)


def _commands(typed: str) -> Iterable[Completion]:
    for one in COMMANDS.values():
        if one.name.startswith(typed.lower()):
            text = f"{one.name} " if one.metavar else one.name
            yield Completion(text, start_position=-len(typed), display=one.name, display_meta=one.help)
