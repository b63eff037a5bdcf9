"""What `qwenctl chat` was asked for, as a value: the model, how it is loaded, the conversation, where that is kept.

Paths and names of the command line come in, files that exist and conversations come out; and an engine with the model
in it. It knows no options and writes nothing to a terminal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.commands.options.vision_options import MediaOptions
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import temp_dir_path
from qwenctl.files.media_files import STANDARD_INPUT, MediaSource
from qwenctl.files.paths import prefixes_folder, sessions_folder
from qwenctl.loading.model_files import reserve_mmproj, resolve_model, vision_settings
from qwenctl.loading.open_model import open_model
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.terminal.streams import piped_input

if TYPE_CHECKING:
    from qwenctl.chat.build_request import AnswerLimits
    from qwenctl.chat.context_trimming import ContextFullPolicy
    from qwenctl.chat.conversation import Conversation
    from qwenctl.chat.saved.prefixes import FollowReading, SavedPrefix
    from qwenctl.chat.saved.sessions import SessionStore
    from qwenctl.tools.tool_set import ToolSet


@dataclass(frozen=True)
class ChatRequest:
    """What was asked for. `resume` is the name of a session in `store`; `conversation` goes on from it.

    `images` go with the first question; `source` is where they come from, and `vision` how the model looks at them.
    """

    model: Path
    asked: LoadRequest
    conversation: Conversation
    limits: AnswerLimits
    store: SessionStore | None
    resume: str
    on_full: ContextFullPolicy
    functions: ToolSet | None = None
    allows_all: bool = False
    prefix: SavedPrefix | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    source: MediaSource | None = None
    images: tuple[str, ...] = ()

    def take(self, named: str) -> Media:
        """The picture or clip that a person names. Raises QwenctlError."""
        if self.source is None:
            raise QwenctlError("images cannot be sent here")
        return self.source.resolve(named)


def chat_job(
    model: Path | None,
    asked: LoadRequest,
    conversation: Conversation,
    limits: AnswerLimits,
    resume: str | None,
    on_full: ContextFullPolicy,
    *,
    keeps: bool,
) -> ChatRequest:
    """With `resume`, the session's turns, and its model if none is given; with an empty one, the latest session."""
    from qwenctl.chat.saved.sessions import SessionStore

    store = SessionStore(sessions_folder()) if keeps else None
    if resume is None:
        return ChatRequest(resolve_model(model), asked, conversation, limits, store, "", on_full)
    if store is None:
        raise QwenctlError("--resume and --no-save cannot be used together", "leave one of them out")
    name = resume or next(iter(store.names()), "")
    if not name:
        raise QwenctlError("no saved conversations yet", "qwenctl chat -m MODEL.gguf", ExitCode.NO_INPUT)
    session = store.load(name)
    return ChatRequest(
        resolve_model(model or Path(session.model)), asked, session.conversation, limits, store, name, on_full
    )


def with_prefix(job: ChatRequest, given: str | None, keep: str | None) -> ChatRequest:
    """`job` with the conversation beginning with the prefix `given`. Raises QwenctlError if there is none."""
    from qwenctl.chat.saved.prefixes import find_prefix
    from qwenctl.chat.saved.sessions import SessionStore

    if given is None:
        if keep is not None:
            raise QwenctlError(
                "--save-as needs --prefix FILE", f"qwenctl chat -m MODEL.gguf --prefix FILE --save-as {keep}"
            )
        return job
    if job.resume:
        raise QwenctlError(
            "--resume and --prefix cannot be used together", "a saved conversation already has its prefix"
        )
    prefix = find_prefix(SessionStore(prefixes_folder(), "prefix"), given, job.conversation.system, keep)
    return replace(job, conversation=job.conversation.with_system(prefix.text), prefix=prefix)


def open_chat_engine(
    job: ChatRequest,
    follow: Callable[[Iterator[LoadProgress | ModelInfo]], ModelInfo],
    follow_reading: FollowReading,
    say: Callable[[str], None],
) -> LoadedEngine:
    """A new engine with the model in it, which has read the prefix; `follow` and `follow_reading` show the progress."""
    from qwenctl.loading.checked_backend import start_engine

    asked = reserve_mmproj(job.asked, job.vision.mmproj)
    opened = open_model(job.model, asked, lambda: start_engine(say), follow, say)
    try:
        opened.engine.configure_vision(job.vision)
        if job.prefix is not None:
            _begin_with(opened, job, job.prefix, follow_reading, say)
    except BaseException:
        opened.engine.close()
        raise
    return opened


def _begin_with(
    opened: LoadedEngine, job: ChatRequest, prefix: SavedPrefix, follow: FollowReading, say: Callable[[str], None]
) -> None:
    from qwenctl.chat.saved.prefixes import prefill_prefix

    told = prefill_prefix(opened, job.model, prefix, job.conversation.tools, follow)
    if told:
        say(told)


def load_tools(path: Path | None, timeout_s: int) -> AbstractContextManager[ToolSet | None]:
    """The functions of a file, which end with the context."""
    if path is None:
        return nullcontext()
    if path.suffix == ".py":
        from qwenctl.tools.python_tools import PythonTools

        return PythonTools(path, timeout_s)
    from qwenctl.tools.json_tools import JsonTools

    return JsonTools(path, timeout_s)


def with_functions(job: ChatRequest, functions: ToolSet | None, *, allows_all: bool) -> ChatRequest:
    """`job` with functions that the model may call. Raises QwenctlError where a schema forbids calls."""
    if functions is None:
        return job
    if job.limits.json_schema:
        raise QwenctlError("--tools and --json-schema cannot be used together", "leave one of them out")
    conversation = replace(job.conversation, tools=functions.schemas)
    return replace(job, conversation=conversation, functions=functions, allows_all=allows_all)


@contextmanager
def media_context(job: ChatRequest, given: MediaOptions) -> Iterator[ChatRequest]:
    """`job` with pictures, which are copied into a folder that goes with the context. Raises QwenctlError."""
    vision = vision_settings(job.model, given.mmproj, given.vision)
    folder = temp_dir_path()
    try:
        stdin = piped_input() if STANDARD_INPUT in given.images else None
        source = MediaSource(folder, given.allows_urls, stdin)
        yield replace(job, vision=vision, source=source, images=given.images)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
