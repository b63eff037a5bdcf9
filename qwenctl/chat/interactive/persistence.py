"""Keeping a chat, and going on with a kept one: the conversation as text, and the engine's state behind it.

The chat's state comes in and goes out with its session; what has to be said goes to the screen. A disk that is full or
a state that does not fit never ends a chat: it goes on, and says what is not kept or must be read again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.chat.saved.sessions import Session, SessionStore
from qwenctl.errors import QwenctlError

_LONG_LETTERS = 8192  # of a question that may take long to read


def save_question(setup: ChatSetup, state: ChatState) -> ChatState:
    """Write a long question before it is read: should all stop meanwhile, it can be gone on with."""
    return _written(setup, state) if len(state.conversation.last_question) > _LONG_LETTERS else state


def discard_question(setup: ChatSetup, state: ChatState) -> ChatState:
    """Write a conversation again from which a question was taken, if `begin` had written that."""
    if (
        setup.store is None
        or state.session is None
        or not setup.store.load(state.session.name).conversation.awaits_answer
    ):
        return state
    if state.conversation.turns:
        return _written(setup, state)
    state.session.delete()
    return replace(state, session=None)


def save(setup: ChatSetup, state: ChatState) -> ChatState:
    """Write the conversation, and let the engine read ahead and keep its state, both without waiting for it."""
    state = _written(setup, state)
    file = state.session.state_file if state.session is not None else None
    with suppress(QwenctlError):  # an engine that has died says so at the next question
        talk = state.conversation
        state.model.engine.warm_prefix(
            talk.prompt_messages, enable_thinking=talk.think, tools=talk.tools, state_path=file
        )
    return state


def _written(setup: ChatSetup, state: ChatState) -> ChatState:
    state = _with_session(setup, state)
    try:
        if state.session is not None:
            state.session.keep(state.conversation, setup.model, state.model.loaded)
    except OSError as error:
        setup.screen.note(f"cannot save this conversation: {error.strerror}")
        state = replace(state, private=True, session=None)
    return state


def _with_session(setup: ChatSetup, state: ChatState) -> ChatState:
    """With a session, if the chat is to be kept and has none yet."""
    if setup.store is None or state.private or state.session is not None:
        return state
    first = next((message.content for message in state.conversation.messages if message.role == "user"), "")
    return replace(state, session=setup.store.open(setup.store.new_name(first)))


def resume(setup: ChatSetup, state: ChatState, store: SessionStore, name: str) -> ChatState:
    """Go on with the session `name` in the place of what there is. Raises QwenctlError if it cannot be opened."""
    session = store.load(name)
    opened = store.open(name)
    if state.session is not None:
        state.session.close()
    conversation = replace(session.conversation, tools=setup.conversation.tools)
    state = replace(state, conversation=conversation, session=opened, private=False, last=None)
    setup.screen.replay(session.conversation.messages)
    restored = state.model.engine.restore(opened.state_file)
    why = _difference(session, state) or restored.reason
    if restored.tokens:
        setup.screen.note(f"{session.name}: {restored.tokens:,} tokens restored, nothing to evaluate again")
    else:
        setup.screen.note(f"{session.name}: its text will be evaluated again ({why})")
    if conversation.awaits_answer:
        setup.screen.note("the last question has no answer yet: /regen answers it, /undo removes it")
    return state


def _difference(session: Session, state: ChatState) -> str:
    """What is another one than when the session was kept."""
    loaded = state.model.loaded
    if session.fingerprint != loaded.fingerprint:
        return "the model has changed"
    return "the chat template has changed" if session.template_sha256 != loaded.template_sha256 else ""


def close(setup: ChatSetup, state: ChatState) -> None:
    """Wait until all is on the disk; Ctrl-C does not wait."""
    if state.session is None:
        return
    name = state.session.name
    try:
        if state.engine_alive and state.last is not None:
            with setup.screen.waiting("saving the conversation (Ctrl-C skips this)"):
                error = state.model.engine.flush().error
            if error:
                setup.screen.note(f"saved the text, but not the model's state: {error}")
    except (KeyboardInterrupt, QwenctlError):
        pass
    finally:
        state.session.close()
    setup.screen.note(f"saved: qwenctl chat --resume {name}")
