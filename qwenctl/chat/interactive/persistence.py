"""Saves and resumes a chat: the conversation as text, and the engine's state beside it.

The chat's state comes in and goes out with its session; messages go to the screen. A full disk or a saved state that
does not match never ends a chat: the screen says what was not saved or must be evaluated again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.chat.saved.sessions import Session, SessionStore
from qwenctl.errors import QwenctlError, command_line
from qwenctl.tools.tool_set import error_result

_LONG_CHARACTERS = 8192  # a longer question may take long to evaluate


def save_question(setup: ChatSetup, state: ChatState) -> ChatState:
    """Save a long question before it is evaluated, so that the chat can be resumed if it is killed meanwhile."""
    return _write_session(setup, state) if len(state.conversation.last_question) > _LONG_CHARACTERS else state


def discard_question(setup: ChatSetup, state: ChatState) -> ChatState:
    """Save the conversation without a question that was removed, if `save_question` had written it.

    Raises QwenctlError if the saved conversation cannot be read.
    """
    if (
        setup.store is None
        or state.session is None
        or not setup.store.load(state.session.name).conversation.awaits_answer
    ):
        return state
    if state.conversation.turns:
        return _write_session(setup, state)
    state.session.delete()
    return replace(state, session=None)


def save(setup: ChatSetup, state: ChatState) -> ChatState:
    """Save the conversation; the engine prefills it and saves its state in the background."""
    state = _write_session(setup, state)
    file = state.session.state_file if state.session is not None else None
    with suppress(QwenctlError):  # a crash of the engine is reported at the next question
        conversation = state.conversation
        state.model.engine.warm_prefix(
            conversation.prompt_messages,
            enable_thinking=conversation.think,
            tools=conversation.tools,
            state_path=file,
        )
    return state


def save_stopped(setup: ChatSetup, state: ChatState) -> ChatState:
    """Save what there is of a chat that is being ended; the engine is not asked, and the terminal may be gone."""
    messages = state.conversation.messages
    open_calls = messages[-1].tool_calls if messages else ()
    if open_calls:  # every call has a result
        results = [error_result("the chat was stopped before this call had a result")] * len(open_calls)
        state = replace(state, conversation=state.conversation.with_results(results))
    with suppress(OSError):  # of the message that it cannot be saved
        state = _write_session(setup, state)
    return replace(state, last=None)


def _write_session(setup: ChatSetup, state: ChatState) -> ChatState:
    state = _ensure_session(setup, state)
    try:
        if state.session is not None:
            state.session.save(state.conversation, setup.model, state.model.loaded)
    except OSError as error:
        setup.screen.show_note(f"cannot save this conversation: {error.strerror}")
        state = replace(state, private=True, session=None)
    return state


def _ensure_session(setup: ChatSetup, state: ChatState) -> ChatState:
    """Open a session, if the chat is to be saved and has none yet."""
    if setup.store is None or state.private or state.session is not None:
        return state
    first = next((message.content for message in state.conversation.messages if message.role == "user"), "")
    return replace(state, session=setup.store.open(setup.store.new_name(first)))


def resume(setup: ChatSetup, state: ChatState, store: SessionStore, name: str) -> ChatState:
    """Replace the conversation by the saved session `name`. Raises QwenctlError if it cannot be opened."""
    session = store.load(name)
    open_session = store.open(name)
    if state.session is not None:
        state.session.close()
    conversation = replace(session.conversation, tools=setup.conversation.tools)
    state = replace(state, conversation=conversation, session=open_session, private=False, last=None)
    setup.screen.replay(session.conversation.messages)
    restored = state.model.engine.restore(open_session.state_file)
    reason = _model_change(session, state) or restored.reason
    if restored.tokens:
        setup.screen.show_note(f"{session.name}: {restored.tokens:,} tokens restored, nothing to evaluate again")
    else:
        setup.screen.show_note(f"{session.name}: its text will be evaluated again ({reason})")
    if conversation.awaits_answer:
        setup.screen.show_note("the last question has no answer yet: /regen answers it, /undo removes it")
    return state


def _model_change(session: Session, state: ChatState) -> str:
    """Return what changed since the session was saved; empty if model and chat template are the same."""
    loaded = state.model.loaded
    if session.fingerprint != loaded.fingerprint:
        return "the model has changed"
    return "the chat template has changed" if session.template_sha256 != loaded.template_sha256 else ""


def close(setup: ChatSetup, state: ChatState) -> None:
    """Wait until the conversation and the state are on disk, and close the session; Ctrl-C skips the wait."""
    if state.session is None:
        return
    name = state.session.name
    try:
        if state.engine_alive and state.last is not None:
            with setup.screen.show_waiting("saving the conversation (Ctrl-C skips this)"):
                error = state.model.engine.flush().error
            if error:
                setup.screen.show_note(f"saved the text, but not the model's state: {error}")
    except (KeyboardInterrupt, QwenctlError, OSError):
        pass
    finally:
        state.session.close()
    with suppress(OSError):  # the terminal may be gone
        setup.screen.show_note(f"saved: {command_line('chat', '--resume', name)}")
