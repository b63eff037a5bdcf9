"""Slash commands that do more than change the conversation: statistics, files, sessions.

The chat's setup and state and the command's argument come in; the new state goes out, and messages go to the screen.
How a line is parsed is not known here (`slash_commands`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quantize.formatting import format_bytes, format_memory
from qwenctl.chat.attachments import read_attachments
from qwenctl.chat.interactive import persistence
from qwenctl.chat.interactive.slash_commands import sampling_lines
from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.chat.saved.export import export_text
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.media_files import is_media
from qwenctl.files.pasted_paths import find_mentions, pasted_path, typed_path
from qwenctl.terminal.sanitize import clean_line
from qwenctl.views.answer import format_draft_acceptance, format_media_line, format_speeds

Action = Callable[[ChatSetup, ChatState, str], ChatState]


def _stats(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    loaded = state.model.loaded
    lines = [f"{loaded.name}: {loaded.description}, {format_bytes(loaded.size_bytes)}"]
    with suppress(QwenctlError):
        if state.engine_alive:
            stats = state.model.engine.stats()
            lines += [
                f"context {stats.context_used:,}/{stats.context_tokens:,} tokens",
                f"memory {format_memory(stats.resident_bytes)}",
                f"{stats.snapshots} snapshots of earlier turns, {format_memory(stats.snapshot_bytes)}",
                *(
                    f"all answers: {drafts}"
                    for drafts in format_draft_acceptance(stats.drafted_tokens, stats.accepted_tokens)
                ),
            ]
    if state.last is not None:
        usage, speeds = state.last.usage, ", ".join(format_speeds(state.last))
        lines += [
            f"last prompt: {usage.prompt_tokens:,} tokens, {usage.cached_tokens:,} of them cached",
            f"last answer: {usage.thinking_tokens:,} tokens of thinking, {usage.answer_tokens:,} of answer",
            *([f"last answer: {speeds}"] if speeds else []),
        ]
    setup.screen.show_note(*lines)
    return state


def _sessions(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    names = _store(setup).names()
    here = state.session.name if state.session is not None else ""
    setup.screen.show_note(*(f"{'*' if name == here else ' '} {name}" for name in names[:20]))
    if len(names) > 20:
        setup.screen.show_note(f"  and {len(names) - 20:,} more: qwenctl sessions")
    return state


def _load(setup: ChatSetup, state: ChatState, name: str) -> ChatState:
    return persistence.resume(setup, state, _store(setup), name)


def _save(setup: ChatSetup, state: ChatState, name: str) -> ChatState:
    """Save the conversation under another name from now on; the copy under the old name stays as it is."""
    store = _store(setup)
    if name in store.names():
        raise QwenctlError(f"a saved conversation named {name!r} already exists", f"/load {name}")
    opened = store.open(name)
    if state.session is not None:
        state.session.close()
    state = persistence.save(setup, replace(state, session=opened, private=False))
    setup.screen.show_note(f"saved as {name}")
    return state


def _private(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    """Save nothing from now on; what was saved before stays as it is."""
    if state.session is None:
        setup.screen.show_note("this conversation is not saved")
        return replace(state, private=True)
    _stop_saving(state)
    name = state.session.name
    state.session.close()
    if setup.store is not None and name in setup.store.names():
        setup.screen.show_note(
            f"from now on nothing is saved; what was said before stays saved as {name}",
            f"/delete {name} deletes it",
        )
    else:
        setup.screen.show_note("this conversation is not saved")
    return replace(state, session=None, private=True)


def _delete(setup: ChatSetup, state: ChatState, named: str) -> ChatState:
    """Delete a saved conversation, by default this one, if the user says yes; this one is then private."""
    store, here = _store(setup), state.session.name if state.session is not None else ""
    name = named or here
    if not name or (name == here and name not in store.names()):
        raise QwenctlError("this conversation is not saved", "/sessions lists those that are")
    if name not in store.names():
        store.load(name)  # raises, and lists similar names
    try:
        answer = setup.ask(f"delete the saved conversation {name}? [y]es [n]o: ").strip().lower()
    except (KeyboardInterrupt, EOFError):
        answer = ""
    if answer not in ("y", "yes"):
        setup.screen.show_note("nothing is deleted")
        return state
    if name != here or state.session is None:
        store.delete(name)
        setup.screen.show_note(f"deleted {name}")
        return state
    _stop_saving(state)
    state.session.delete()
    setup.screen.show_note(f"deleted {name}; from now on nothing is saved")
    return replace(state, session=None, private=True)


def _stop_saving(state: ChatState) -> None:
    with suppress(QwenctlError):
        state.model.engine.stats()  # stops the background prefill, which would end by saving the state
        state.model.engine.flush()


def _export(setup: ChatSetup, state: ChatState, path: str) -> ChatState:
    file = Path(typed_path(path)).expanduser()
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(export_text(state.conversation, "json" if file.suffix == ".json" else "markdown"))
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise QwenctlError(f"{file}: {reason}", "/export another-name.md", ExitCode.CANNOT_CREATE) from error
    setup.screen.show_note(f"written to {file}")
    return state


def _copy(setup: ChatSetup, state: ChatState, text: str) -> ChatState:
    setup.screen.copy_to_clipboard(text)
    setup.screen.show_note(f"{len(text):,} characters copied, if the terminal allows it")
    return state


def _edit(_setup: ChatSetup, state: ChatState, question: str) -> ChatState:
    return replace(state, prefill=question)


def _file(setup: ChatSetup, state: ChatState, path: str) -> ChatState:
    path = pasted_path(path) or path
    if is_media(Path(path).expanduser()):
        return _image(setup, state, path)
    state = _attach_text(setup, state, path)
    setup.screen.show_note("will be sent with the next question")
    return state


def attach_mentions(setup: ChatSetup, state: ChatState, line: str) -> ChatState:
    """Attach the files that `line` mentions as @path. Raises QwenctlError if one cannot be attached."""
    for path in find_mentions(line):
        attach = attach_media if is_media(Path(path).expanduser()) else _attach_text
        state = attach(setup, state, path)
    return state


def _image(setup: ChatSetup, state: ChatState, named: str) -> ChatState:
    state = attach_media(setup, state, pasted_path(named) or named)
    setup.screen.show_note("will be sent with the next question")
    return state


def attach_media(setup: ChatSetup, state: ChatState, named: str) -> ChatState:
    """Attach the image or video `named` (a path or URL) to the next question, and show its size in tokens.

    Raises QwenctlError if it cannot be read.
    """
    media = setup.resolve_media(named)
    if state.engine_alive:
        setup.screen.show_note(format_media_line(media, state.model.engine.inspect_media(media)))
    return replace(state, media=(*state.media, media))


def _attach_text(setup: ChatSetup, state: ChatState, path: str) -> ChatState:
    attachments = read_attachments(path)
    n_bytes = sum(len(attachment.text.encode()) for attachment in attachments)
    tokens = sum(state.model.engine.count(attachment.text) for attachment in attachments) if state.engine_alive else 0
    files = f"{len(attachments):,} files, " if len(attachments) > 1 else ""
    setup.screen.show_note(f"{path}: {files}{n_bytes:,} bytes, {tokens:,} tokens")
    return replace(state, attached=(*state.attached, *attachments))


def _show(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    loaded, conversation = state.model.loaded, state.conversation
    limit = f", for {conversation.think_budget:,} tokens at most" if conversation.think_budget >= 0 else ""
    setup.screen.show_note(
        f"model     {setup.model} ({loaded.description})",
        f"template  sha256 {loaded.template_sha256}",
        f"session   {state.session.name if state.session is not None else 'not saved'}",
        f"thinking  {'on' if conversation.think else 'off'}{limit}",
        f"system    {conversation.system or '-'}",
        *sampling_lines(state.sampling),
    )
    return state


def _new(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    """Detach the session: a new conversation is saved as a new session."""
    if state.session is not None:
        state.session.close()
    return replace(state, session=None, last=None)


def _tools(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    for tool in state.conversation.tools:
        function = tool["function"]
        parameters = ", ".join(function.get("parameters", {}).get("properties", {}))
        first, *_ = [*str(function.get("description", "")).strip().splitlines(), ""]
        setup.screen.show_note(clean_line(f"{function['name']}({parameters})  {first}"))
    if not state.conversation.tools:
        setup.screen.show_note("none: qwenctl chat --tools FILE.py")
    return state


def _store(setup: ChatSetup) -> SessionStore:
    if setup.store is None:
        raise QwenctlError("conversations are not saved (--no-save)", "start qwenctl chat without --no-save")
    return setup.store


ACTIONS: Mapping[str, Action] = {
    "stats": _stats,
    "sessions": _sessions,
    "load": _load,
    "save": _save,
    "private": _private,
    "delete": _delete,
    "export": _export,
    "new": _new,
    "copy": _copy,
    "edit": _edit,
    "file": _file,
    "image": _image,
    "show": _show,
    "tools": _tools,
}
