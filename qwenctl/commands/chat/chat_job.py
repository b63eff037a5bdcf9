"""What `qwenctl chat` was asked for, as a value: the model, how it is loaded, the conversation, where that is kept.

Paths and names of the command line come in, files that exist and conversations come out; and an engine with the model
in it. It knows no options and writes nothing to a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.commands.options.load import LoadOptions, with_room_for
from qwenctl.engine.interface import OpenModel
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.paths import prefixes_folder, sessions_folder
from qwenctl.loading.open_model import open_placed
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.protocol.messages import Loaded, LoadProgress

if TYPE_CHECKING:
    from qwenctl.chat.build_request import AnswerLimits
    from qwenctl.chat.context_trimming import OnFull
    from qwenctl.chat.conversation import Conversation
    from qwenctl.chat.saved.prefixes import FollowReading, Prefix
    from qwenctl.chat.saved.sessions import SessionStore
    from qwenctl.files.media_files import MediaSource
    from qwenctl.tools.tool_set import Functions


@dataclass(frozen=True)
class ChatJob:
    """What was asked for. `resume` is the name of a session in `store`; `conversation` goes on from it.

    `images` go with the first question; `source` is where they come from, and `vision` how the model looks at them.
    """

    model: Path
    asked: LoadOptions
    conversation: Conversation
    limits: AnswerLimits
    store: SessionStore | None
    resume: str
    on_full: OnFull
    functions: Functions | None = None
    allows_all: bool = False
    prefix: Prefix | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    source: MediaSource | None = None
    images: tuple[str, ...] = ()

    def take(self, named: str) -> Media:
        """The picture or clip that a person names. Raises QwenctlError."""
        if self.source is None:
            raise QwenctlError("pictures cannot be sent here")
        return self.source.take(named)


def chat_job(
    model: Path | None,
    asked: LoadOptions,
    conversation: Conversation,
    limits: AnswerLimits,
    resume: str | None,
    on_full: OnFull,
    *,
    keeps: bool,
) -> ChatJob:
    """With `resume`, the session's turns, and its model if none is given; with an empty one, the latest session."""
    from qwenctl.chat.saved.sessions import SessionStore

    store = SessionStore(sessions_folder()) if keeps else None
    if resume is None:
        return ChatJob(existing_model(model), asked, conversation, limits, store, "", on_full)
    if store is None:
        raise QwenctlError("--resume and --no-save contradict each other", "leave one of them out")
    name = resume or next(iter(store.names()), "")
    if not name:
        raise QwenctlError("no conversation has been kept yet", "qwenctl chat -m MODEL.gguf", ExitCode.NO_INPUT)
    session = store.load(name)
    return ChatJob(
        existing_model(model or Path(session.model)), asked, session.conversation, limits, store, name, on_full
    )


def existing_model(model: Path | None) -> Path:
    """The file that `model` names, a path or a model that is here. Raises QwenctlError if there is none."""
    from qwenctl.hub.local.resolve import model_path
    from qwenctl.models.gguf_check import check_model_file

    if model is None:
        raise QwenctlError(
            "no model: -m names a GGUF file, or a model that `qwenctl ls` lists",
            "qwenctl pull qwen3.5-35b-a3b brings one here that fits this machine",
        )
    path = model_path(str(model))
    check_model_file(path)
    return path


def with_prefix(job: ChatJob, given: str | None, keep: str | None) -> ChatJob:
    """`job` with the conversation beginning with the prefix `given`. Raises QwenctlError if there is none."""
    from qwenctl.chat.saved.prefixes import find_prefix
    from qwenctl.chat.saved.sessions import SessionStore

    if given is None:
        if keep is not None:
            raise QwenctlError("--keep needs --prefix FILE", f"qwenctl chat -m MODEL.gguf --prefix FILE --keep {keep}")
        return job
    if job.resume:
        raise QwenctlError("--resume and --prefix contradict each other", "a kept conversation holds its prefix")
    prefix = find_prefix(SessionStore(prefixes_folder(), "prefix"), given, job.conversation.system, keep)
    return replace(job, conversation=job.conversation.with_system(prefix.text), prefix=prefix)


def open_model(
    job: ChatJob,
    follow: Callable[[Iterator[LoadProgress | Loaded]], Loaded],
    follow_reading: FollowReading,
    say: Callable[[str], None],
) -> OpenModel:
    """A new engine with the model in it, which has read the prefix; `follow` and `follow_reading` show the progress."""
    from qwenctl.loading.checked_backend import start_engine

    asked = with_room_for(job.asked, job.vision.mmproj)
    opened = open_placed(job.model, asked, lambda: start_engine(say), follow, say)
    try:
        opened.engine.see(job.vision)
        if job.prefix is not None:
            _begin_with(opened, job, job.prefix, follow_reading, say)
    except BaseException:
        opened.engine.close()
        raise
    return opened


def _begin_with(
    opened: OpenModel, job: ChatJob, prefix: Prefix, follow: FollowReading, say: Callable[[str], None]
) -> None:
    from qwenctl.chat.saved.prefixes import begin_with

    told = begin_with(opened, job.model, prefix, job.conversation.tools, follow)
    if told:
        say(told)


def functions_of(path: Path | None, timeout_s: int) -> AbstractContextManager[Functions | None]:
    """The functions of a file, which end with the context."""
    if path is None:
        return nullcontext()
    if path.suffix == ".py":
        from qwenctl.tools.python_tools import PythonFunctions

        return PythonFunctions(path, timeout_s)
    from qwenctl.tools.json_tools import DescribedFunctions

    return DescribedFunctions(path, timeout_s)


def with_functions(job: ChatJob, functions: Functions | None, *, allows_all: bool) -> ChatJob:
    """`job` with functions that the model may call. Raises QwenctlError where a schema forbids calls."""
    if functions is None:
        return job
    if job.limits.json_schema:
        raise QwenctlError("--tools and --json-schema contradict each other", "leave one of them out")
    conversation = replace(job.conversation, tools=functions.schemas)
    return replace(job, conversation=conversation, functions=functions, allows_all=allows_all)
