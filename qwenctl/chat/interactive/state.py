"""The state of a running chat as a value: the model, the conversation, where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.chat.attachments import Attachment
from qwenctl.chat.build_request import AnswerLimits
from qwenctl.chat.context_trimming import ContextFullPolicy
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive.screen import Screen
from qwenctl.chat.saved.sessions import OpenSession, SessionStore
from qwenctl.engine.interface import LoadedEngine
from qwenctl.files.media_files import refuse_media
from qwenctl.models.sampling import resolve_sampling
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import GenerationFinished, Sampling
from qwenctl.tools.tool_set import ToolSet


def _refuse_to_ask(_question: str) -> str:
    raise EOFError


@dataclass(frozen=True)
class ChatSetup:
    """All that a chat is made of. `open_model` starts an engine and loads `model`; it may be called again.

    `read_line` is given what the line begins with, `ask` a question that a short answer is wanted to. `functions` are
    what the model may call, without asking a person if `allows_all`. `take` makes a picture of what a person names;
    `media` go with the first question.

    `store` is where conversations are kept (None: nowhere); `resume` is the name of the one to go on with.
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


@dataclass(frozen=True)
class ChatState:
    """`alive` is whether the engine runs, `last` the end of the last answer, `session` where the chat is kept."""

    model: LoadedEngine
    conversation: Conversation
    engine_alive: bool = True
    last: GenerationFinished | None = None
    session: OpenSession | None = None
    private: bool = False
    attached: tuple[Attachment, ...] = ()  # goes with the next question
    media: tuple[Media, ...] = ()  # so do these
    prefill: str = ""  # what the next line begins with
    approved_tools: frozenset[str] = frozenset()  # functions that may be called without asking

    @property
    def sampling(self) -> Sampling:
        """What the next answer is sampled with."""
        return resolve_sampling(self.conversation.sampling, self.conversation.think, self.model.loaded)
