"""Saved prefixes: long texts that many conversations start with (a book, a code base), evaluated only once.

A saved prefix is a session with only a system message, in a store of its own; a chat starts from the engine's state
beside it. A name or a path comes in, a `SavedPrefix` goes out; a loaded model evaluates it.
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

PrefillFollower = Callable[[Iterator[PrefillProgress | PrefixReady]], PrefixReady]


@dataclass(frozen=True)
class SavedPrefix:
    """A prefix: `text` is the system message of its conversations, `name` its name in `store` ("": not saved)."""

    text: str
    name: str
    store: SessionStore
    is_new: bool = False


def find_prefix(store: SessionStore, given: str, system: str, save_as: str | None) -> SavedPrefix:
    """Return the prefix that `given` names: a saved one, or else a file or folder, with the text of `system` before it.

    A file or folder is to be saved as `save_as` (None: not saved). Raises QwenctlError if `given` names nothing, if
    there is no text in it, or if a saved prefix is given together with `system`.
    """
    if save_as is None and given in store.names():
        if system:
            raise QwenctlError(
                f"the prefix {given!r} already has a system prompt", "leave out -sys, or give the file again"
            )
        return SavedPrefix(store.load(given).conversation.system, given, store)
    if not Path(given).expanduser().exists() and os.sep not in given and save_as is None:
        store.load(given)  # raises, and lists similar names
    texts = read_attachments(given)
    if len(texts) == 1 and Path(given).expanduser().is_file():
        parts = [texts[0].text]
    else:
        parts = [f"{text.name}:\n{code_fence(text.text)}" for text in texts]
    return SavedPrefix(
        "\n\n".join([system, *parts] if system else parts), save_as or "", store, is_new=save_as is not None
    )


def prefill_prefix(model: LoadedEngine, path: Path, prefix: SavedPrefix, tools: Tools, follow: PrefillFollower) -> str:
    """Let the model loaded from `path` evaluate the prefix, except what its saved state already covers.

    Returns a message for the user, mostly empty. Ctrl-C stops the prefill and saves its state: raises QwenctlError
    (INTERRUPTED) then. Raises OSError if a new prefix cannot be written.
    """
    if not prefix.name:
        return ""  # it is evaluated with the first question
    conversation = Conversation().with_system(prefix.text)
    if prefix.is_new:
        session = prefix.store.open(prefix.name)
        try:
            session.save(conversation, path, model.loaded)
        finally:
            session.close()
    file = _state_file(prefix, tools)
    restored = model.engine.restore(file) if file.exists() else None
    with cancel_on_sigint(model.engine.cancel):
        result = follow(model.engine.read_prefix(conversation.prompt_messages, state_path=file, tools=tools))
    if result.tokens < result.total:
        raise QwenctlError(
            f"stopped after {result.tokens:,} of {result.total:,} tokens of the prefix, which are saved",
            "the same command resumes from there",
            ExitCode.INTERRUPTED,
        )
    if result.error:
        return f"the prefix was not saved: {result.error}"
    reason = restored.reason if restored is not None else ""
    return f"the prefix {prefix.name!r} was evaluated again: {reason}" if reason else ""


def _state_file(prefix: SavedPrefix, tools: Tools) -> Path:
    """Return the state file for this set of tools.

    The chat template puts tools before the system message, so the state depends on them.
    """
    file = prefix.store.state_file(prefix.name)
    digest = hashlib.blake2b(json.dumps(tools, sort_keys=True).encode(), digest_size=8).hexdigest()
    return file.with_name(f"{file.name}.{digest}") if tools else file
