"""The fixed setup and the changing state of a chat, as values: the model, the conversation, the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.chat.attachments import Attachment
from qwenctl.chat.build_request import AnswerLimits
from qwenctl.chat.context_trimming import ContextFullPolicy
from qwenctl.chat.conversation import Conversation, ConversationChanges
from qwenctl.chat.interactive.screen import Screen
from qwenctl.chat.saved.sessions import OpenSession, SessionStore
from qwenctl.engine.interface import LoadedEngine
from qwenctl.files.media_files import refuse_media
from qwenctl.models.sampling import resolve_sampling
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import GenerationFinished, Sampling
from qwenctl.terminal.keyboard import Keyboard
from qwenctl.tools.tool_set import ToolSet


def _refuse_to_ask(_question: str) -> str:
    raise EOFError


@dataclass(frozen=True)
class ChatSetup:
    """The fixed parts of a chat. `open_model` starts an engine and loads `model`; after a crash it is called again.

    `read_line` takes the text that the line starts with; `ask` takes a question and returns the user's short answer.
    The model may call `functions`, without asking the user if `auto_approve_tools`. `resolve_media` turns a path or URL
    into an image or video; the paths and URLs in `media` go with the first question.

    Conversations are saved in `store` (None: not saved); `resume` names the one to resume ("": none), with
    `changes` to it. `keyboard` holds the keys that come while the model answers, for `read_line`.
    """

    open_model: Callable[[], LoadedEngine]
    read_line: Callable[[str], str]
    screen: Screen
    conversation: Conversation
    limits: AnswerLimits = field(default_factory=AnswerLimits)
    ask: Callable[[str], str] = _refuse_to_ask
    functions: ToolSet | None = None
    auto_approve_tools: bool = False
    resolve_media: Callable[[str], Media] = refuse_media
    media: tuple[str, ...] = ()
    on_full: ContextFullPolicy = "stop"
    model: Path = Path()
    store: SessionStore | None = None
    resume: str = ""
    keyboard: Keyboard = field(default_factory=Keyboard)
    changes: ConversationChanges = field(default_factory=ConversationChanges)


@dataclass(frozen=True)
class ChatState:
    """The state of a chat between two lines. `last` has the statistics of the last answer, `session` is its save."""

    model: LoadedEngine
    conversation: Conversation
    engine_alive: bool = True
    last: GenerationFinished | None = None
    session: OpenSession | None = None
    private: bool = False
    attached: tuple[Attachment, ...] = ()  # texts to send with the next question
    media: tuple[Media, ...] = ()  # images and videos to send with it
    prefill: str = ""  # text that the next line starts with
    approved_tools: frozenset[str] = frozenset()  # tools that the user always allows

    @property
    def sampling(self) -> Sampling:
        """The sampling parameters of the next answer."""
        return resolve_sampling(self.conversation.sampling, self.conversation.thinks, self.model.loaded)


class ChatStopped(Exception):
    """A signal or a dead terminal ends the chat while the model answers; `state` has what there is of the answer.

    What ended it is the exception's cause: KeyboardInterrupt, SystemExit or OSError.
    """

    def __init__(self, state: ChatState) -> None:
        super().__init__("stopped")
        self.state = state


# What can end a chat at any point: a second Ctrl-C, SIGTERM and SIGHUP, and a write to a terminal that is gone.
STOPS = (KeyboardInterrupt, SystemExit, OSError)
