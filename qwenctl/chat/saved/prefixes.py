"""A long beginning of conversations that is read once and kept by name: a book, a code base, instructions.

A kept prefix is a session with a system message and nothing else, in a store of its own; the engine's state beside it
is what a chat begins with. Texts and names come in, prefixes go out, and a model that has read one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwenctl.chat.attachments import code_fence, read_attachments
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import PrefillProgress, PrefixReady, Tools
from qwenctl.terminal.signals import cancel_on_sigint

FollowReading = Callable[[Iterator[PrefillProgress | PrefixReady]], PrefixReady]


@dataclass(frozen=True)
class SavedPrefix:
    """`text` is the system message of what begins with it; `name` is what it is kept as in `store`, if it is."""

    text: str
    name: str
    store: SessionStore
    is_new: bool = False


def find_prefix(store: SessionStore, given: str, system: str, keep: str | None) -> SavedPrefix:
    """The prefix that `given` names: one that is kept, or else a file or folder, after the text of `system`.

    A file is kept as `keep` (None: not at all). Raises QwenctlError if there is no such thing.
    """
    if keep is None and given in store.names():
        if system:
            raise QwenctlError(
                f"the prefix {given!r} already has a system prompt", "leave out -sys, or give the file again"
            )
        return SavedPrefix(store.load(given).conversation.system, given, store)
    if not Path(given).expanduser().exists() and os.sep not in given and keep is None:
        store.load(given)  # says which there are
    texts = read_attachments(given)
    if len(texts) == 1 and Path(given).expanduser().is_file():
        parts = [texts[0].text]
    else:
        parts = [f"{text.name}:\n{code_fence(text.text)}" for text in texts]
    return SavedPrefix("\n\n".join([system, *parts] if system else parts), keep or "", store, is_new=keep is not None)


def prefill_prefix(model: LoadedEngine, path: Path, prefix: SavedPrefix, tools: Tools, follow: FollowReading) -> str:
    """Let the model in the file `path` read the prefix, as far as it has not been read on another day.

    Returns what is to be said of it, mostly nothing. Ctrl-C ends the reading, and what has been read is kept: raises
    QwenctlError with INTERRUPTED then.
    """
    if not prefix.name:
        return ""  # it is read with the first question
    conversation = Conversation().with_system(prefix.text)
    if prefix.is_new:
        opened = prefix.store.open(prefix.name)
        try:
            opened.keep(conversation, path, model.loaded)
        finally:
            opened.close()
    file = _state_file(prefix, tools)
    restored = model.engine.restore(file) if file.exists() else None
    with cancel_on_sigint(model.engine.cancel):
        read = follow(model.engine.read_prefix(conversation.prompt_messages, state_path=file, tools=tools))
    if read.tokens < read.total:
        raise QwenctlError(
            f"stopped after {read.tokens:,} of {read.total:,} tokens of the prefix, which are saved",
            "the same command resumes from there",
            ExitCode.INTERRUPTED,
        )
    if read.error:
        return f"the prefix was not saved: {read.error}"
    why = restored.reason if restored is not None else ""
    return f"the prefix {prefix.name!r} was evaluated again: {why}" if why else ""


def _state_file(prefix: SavedPrefix, tools: Tools) -> Path:
    """Functions stand before the system message, so that each set of them has a state of its own."""
    file = prefix.store.state_file(prefix.name)
    digest = hashlib.blake2b(json.dumps(tools, sort_keys=True).encode(), digest_size=8).hexdigest()
    return file.with_name(f"{file.name}.{digest}") if tools else file
