"""What slash commands do beside changing the conversation: figures, files, sessions.

The chat's setup and state and the command's argument come in, the state afterwards goes out; what there is to say goes
to the screen. Which words lead to which action is known by `slash_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quantize.formatting import format_bytes, format_memory
from qwenctl.chat.attachments import find_mentions, read_attachments
from qwenctl.chat.interactive import persistence as keeping
from qwenctl.chat.interactive.slash_commands import sampling_lines
from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.chat.saved.export import export_text
from qwenctl.chat.saved.sessions import SessionStore
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.media_files import is_media
from qwenctl.terminal.sanitize import clean_line
from qwenctl.views.answer import drafting, format_media_line, speeds

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
                *(f"all answers: {drafts}" for drafts in drafting(stats.drafted_tokens, stats.accepted_tokens)),
            ]
    if state.last is not None:
        usage, told = state.last.usage, ", ".join(speeds(state.last))
        lines += [
            f"last prompt: {usage.prompt_tokens:,} tokens, {usage.cached_tokens:,} of them cached",
            f"last answer: {usage.thinking_tokens:,} tokens of thinking, {usage.answer_tokens:,} of answer",
            *([f"last answer: {told}"] if told else []),
        ]
    setup.screen.note(*lines)
    return state


def _sessions(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    names = _store(setup).names()
    here = state.session.name if state.session is not None else ""
    setup.screen.note(*(f"{'*' if name == here else ' '} {name}" for name in names[:20]))
    if len(names) > 20:
        setup.screen.note(f"  and {len(names) - 20:,} more: qwenctl sessions")
    return state


def _load(setup: ChatSetup, state: ChatState, name: str) -> ChatState:
    return keeping.resume(setup, state, _store(setup), name)


def _save(setup: ChatSetup, state: ChatState, name: str) -> ChatState:
    """Keep the conversation under another name from now on; what was kept so far stays as it is."""
    store = _store(setup)
    if name in store.names():
        raise QwenctlError(f"a saved conversation named {name!r} already exists", f"/load {name}")
    opened = store.open(name)
    if state.session is not None:
        state.session.close()
    state = keeping.save(setup, replace(state, session=opened, private=False))
    setup.screen.note(f"saved as {name}")
    return state


def _private(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    if state.session is not None:
        with suppress(QwenctlError):
            state.model.engine.stats()  # ends the reading ahead, after which the state would be kept
            state.model.engine.flush()
        state.session.delete()
    setup.screen.note("this conversation is not saved")
    return replace(state, session=None, private=True)


def _export(setup: ChatSetup, state: ChatState, path: str) -> ChatState:
    file = Path(path).expanduser()
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(export_text(state.conversation, "json" if file.suffix == ".json" else "markdown"))
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise QwenctlError(f"{file}: {reason}", "/export another-name.md", ExitCode.CANNOT_CREATE) from error
    setup.screen.note(f"written to {file}")
    return state


def _copy(setup: ChatSetup, state: ChatState, text: str) -> ChatState:
    setup.screen.copy(text)
    setup.screen.note(f"{len(text):,} characters copied, if the terminal allows it")
    return state


def _edit(_setup: ChatSetup, state: ChatState, question: str) -> ChatState:
    return replace(state, prefill=question)


def _file(setup: ChatSetup, state: ChatState, path: str) -> ChatState:
    if is_media(Path(path).expanduser()):
        return _image(setup, state, path)
    state = _attached(setup, state, path)
    setup.screen.note("will be sent with the next question")
    return state


def attach(setup: ChatSetup, state: ChatState, line: str) -> ChatState:
    """With the files that `line` mentions as @path."""
    for path in find_mentions(line):
        sends = attach_media if is_media(Path(path).expanduser()) else _attached
        state = sends(setup, state, path)
    return state


def _image(setup: ChatSetup, state: ChatState, named: str) -> ChatState:
    state = attach_media(setup, state, named)
    setup.screen.note("will be sent with the next question")
    return state


def attach_media(setup: ChatSetup, state: ChatState, named: str) -> ChatState:
    """With the picture or clip that `named` means, to be sent with the next question; its cost is shown."""
    media = setup.resolve_media(named)
    if state.engine_alive:
        setup.screen.note(format_media_line(media, state.model.engine.inspect_media(media)))
    return replace(state, media=(*state.media, media))


def _attached(setup: ChatSetup, state: ChatState, path: str) -> ChatState:
    found = read_attachments(path)
    n_bytes = sum(len(one.text.encode()) for one in found)
    tokens = sum(state.model.engine.count(one.text) for one in found) if state.engine_alive else 0
    files = f"{len(found):,} files, " if len(found) > 1 else ""
    setup.screen.note(f"{path}: {files}{n_bytes:,} bytes, {tokens:,} tokens")
    return replace(state, attached=(*state.attached, *found))


def _show(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    loaded, conversation = state.model.loaded, state.conversation
    limit = f", for {conversation.think_budget:,} tokens at most" if conversation.think_budget >= 0 else ""
    setup.screen.note(
        f"model     {setup.model} ({loaded.description})",
        f"template  sha256 {loaded.template_sha256}",
        f"session   {state.session.name if state.session is not None else 'not saved'}",
        f"thinking  {'on' if conversation.think else 'off'}{limit}",
        f"system    {conversation.system or '-'}",
        *sampling_lines(state.sampling),
    )
    return state


def _new(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    """A conversation that begins anew is another session."""
    if state.session is not None:
        state.session.close()
    return replace(state, session=None, last=None)


def _tools(setup: ChatSetup, state: ChatState, _argument: str) -> ChatState:
    for tool in state.conversation.tools:
        function = tool["function"]
        parameters = ", ".join(function.get("parameters", {}).get("properties", {}))
        first, *_ = [*str(function.get("description", "")).strip().splitlines(), ""]
        setup.screen.note(clean_line(f"{function['name']}({parameters})  {first}"))
    if not state.conversation.tools:
        setup.screen.note("none: qwenctl chat --tools FILE.py")
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
    "export": _export,
    "new": _new,
    "copy": _copy,
    "edit": _edit,
    "file": _file,
    "image": _image,
    "show": _show,
    "tools": _tools,
}
