"""A chat as a value: the model, how to load it, the conversation, and where that is saved.

Paths and names from the command line come in; checked files and conversations go out, and an engine with the model
loaded. Options and the terminal are not known here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.chat.conversation import Conversation, ConversationChanges
from qwenctl.commands.options.vision_options import MediaOptions
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError, quote
from qwenctl.files.atomic import temp_dir_path
from qwenctl.files.media_files import STANDARD_INPUT, MediaSource
from qwenctl.files.paths import make_private, prefixes_folder, sessions_folder
from qwenctl.loading.model_files import reserve_mmproj, resolve_model, vision_settings
from qwenctl.loading.open_model import open_model
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.load import LoadProgress, ModelInfo
from qwenctl.protocol.media import Media, VisionSettings
from qwenctl.terminal.streams import piped_input, warn, warn_if_silent

if TYPE_CHECKING:
    from qwenctl.chat.build_request import AnswerLimits
    from qwenctl.chat.context_trimming import ContextFullPolicy
    from qwenctl.chat.saved.prefixes import PrefillFollower, SavedPrefix
    from qwenctl.chat.saved.sessions import SessionStore
    from qwenctl.tools.tool_set import ToolSet


@dataclass(frozen=True)
class ChatRequest:
    """What to chat about with which model. `resume` is the session in `store` that `conversation` continues, or "".

    `images` are sent with the first question; `source` resolves them, and `vision` has the vision encoder's settings.
    `given` are the options on the command line, by parameter: where they turn out to mean nothing, they are refused.
    """

    model: Path
    load: LoadRequest
    conversation: Conversation
    limits: AnswerLimits
    store: SessionStore | None
    resume: str
    on_full: ContextFullPolicy
    functions: ToolSet | None = None
    auto_approve_tools: bool = False
    prefix: SavedPrefix | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)
    source: MediaSource | None = None
    images: tuple[str, ...] = ()
    changes: ConversationChanges = field(default_factory=ConversationChanges)
    given: Mapping[str, str] = field(default_factory=dict, repr=False)

    def resolve_media(self, named: str) -> Media:
        """The image or video that `named` means: a path, URL, data URI, or "-". Raises QwenctlError."""
        if self.source is None:
            raise QwenctlError("images cannot be sent here")
        if named == STANDARD_INPUT and self.source.stdin is not None:
            warn_if_silent(self.source.stdin, "the image on standard input", "from a file: -i photo.png")
        return self.source.resolve(named)


def make_chat_request(
    model: Path | None,
    load: LoadRequest,
    conversation: Conversation,
    limits: AnswerLimits,
    resume: str | None,
    on_full: ContextFullPolicy,
    *,
    saves: bool,
    changes: ConversationChanges = ConversationChanges(),  # noqa: B008 - frozen
) -> ChatRequest:
    """The request for a chat. Raises QwenctlError.

    With `resume`, it continues that session ("": the latest) with `changes`, and with the session's model if `model` is
    None.
    """
    from qwenctl.chat.saved.sessions import SessionStore

    store = SessionStore(sessions_folder()) if saves else None
    if resume is None:
        return ChatRequest(resolve_model(model), load, conversation, limits, store, "", on_full)
    if store is None:
        raise QwenctlError("--resume and --no-save cannot be used together", "leave one of them out")
    name = resume or next(iter(store.names()), "")
    if not name:
        raise QwenctlError("no saved conversations yet", "qwenctl chat -m MODEL.gguf", ExitCode.NO_INPUT)
    session = store.load(name)
    return ChatRequest(
        resolve_model(Path(session.model) if model is None else model),
        load,
        changes.apply(session.conversation),
        limits,
        store,
        name,
        on_full,
        changes=changes,
    )


def can_save() -> bool:
    """Whether conversations can be saved; if not, the user is warned: a chat works without."""
    try:
        folder = make_private(sessions_folder())
    except QwenctlError as error:
        warn(f"the conversation is not saved: {error.message}")
        return False
    if not os.access(folder, os.W_OK):
        warn(f"the conversation is not saved: {folder} cannot be written")
        return False
    return True


def with_prefix(job: ChatRequest, given: str | None, keep: str | None) -> ChatRequest:
    """`job` with the prefix `given` as its system prompt, to be saved as `keep`. Raises QwenctlError."""
    from qwenctl.chat.saved.prefixes import find_prefix
    from qwenctl.chat.saved.sessions import SessionStore

    if given is None:
        if keep is not None:
            raise QwenctlError(
                "--save-as needs --prefix FILE", f"qwenctl chat -m MODEL.gguf --prefix FILE --save-as {quote(keep)}"
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
    follow_reading: PrefillFollower,
    notify: Callable[[str], None],
) -> LoadedEngine:
    """A new engine with the model loaded and the prefix evaluated; the caller closes it. Raises QwenctlError.

    `follow` shows the progress of loading, `follow_reading` that of the prefix; `notify` gets messages for the user.
    """
    from qwenctl.loading.checked_backend import start_engine

    load = reserve_mmproj(job.load, job.vision.mmproj)
    opened = open_model(job.model, load, lambda: start_engine(notify, load.template), follow, notify)
    try:
        opened.engine.configure_vision(job.vision)
        if job.prefix is not None:
            _prefill_prefix(opened, job, job.prefix, follow_reading, notify)
    except BaseException:
        opened.engine.close()
        raise
    return opened


def _prefill_prefix(
    opened: LoadedEngine, job: ChatRequest, prefix: SavedPrefix, follow: PrefillFollower, notify: Callable[[str], None]
) -> None:
    from qwenctl.chat.saved.prefixes import prefill_prefix

    told = prefill_prefix(opened, job.model, prefix, job.conversation.tools, follow)
    if told:
        notify(told)


def load_tools(path: Path | None, timeout_s: int) -> AbstractContextManager[ToolSet | None]:
    """Inside, the functions in a Python or JSON file, None without `path`. Raises QwenctlError."""
    if path is None:
        return nullcontext()
    if path.suffix == ".py":
        from qwenctl.tools.python_tools import PythonTools

        return PythonTools(path, timeout_s)
    from qwenctl.tools.json_tools import JsonTools

    return JsonTools(path, timeout_s)


def with_tools(job: ChatRequest, functions: ToolSet | None, *, auto_approve_tools: bool) -> ChatRequest:
    """`job` with functions that the model may call. Raises QwenctlError if it also has a JSON schema.

    A grammar applies to calls as well, so it can make the model call a function.
    """
    if functions is None:
        return job
    if job.limits.json_schema:
        raise QwenctlError("--tools and --json-schema cannot be used together", "leave one of them out")
    conversation = replace(job.conversation, tools=functions.schemas)
    return replace(job, conversation=conversation, functions=functions, auto_approve_tools=auto_approve_tools)


@contextmanager
def media_context(job: ChatRequest, given: MediaOptions) -> Iterator[ChatRequest]:
    """Inside, `job` with media options; copies of media are in a temporary folder. Raises QwenctlError."""
    vision = vision_settings(job.model, given.mmproj, given.vision)
    folder = temp_dir_path()
    try:
        stdin = piped_input() if STANDARD_INPUT in given.images else None
        source = MediaSource(folder, given.allows_urls, stdin, allows_private=True)  # the user types each URL
        yield replace(job, vision=vision, source=source, images=given.images)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
