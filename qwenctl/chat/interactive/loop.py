"""The loop of a chat: read a line, obey it or let the model answer it, keep the answer.

The engine, the screen and the source of lines come in; what goes out is the exit code. An engine that dies takes
nothing with it but the rest of one answer: the next line opens it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from qwenctl.chat.attachments import prepend_attachments
from qwenctl.chat.build_request import request
from qwenctl.chat.context_trimming import trim_context
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive import persistence as keeping
from qwenctl.chat.interactive.line_input import suppress_echo
from qwenctl.chat.interactive.screen import AnswerView
from qwenctl.chat.interactive.slash_actions import ACTIONS, attach, attach_media
from qwenctl.chat.interactive.slash_commands import run_command
from qwenctl.chat.interactive.state import ChatSetup, ChatState
from qwenctl.chat.tool_calls import run_tool_calls
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import GenerationFinished
from qwenctl.terminal.signals import cancel_on_sigint, defer_sigint
from qwenctl.tools.calls import ParsedCalls, answer_with_calls
from qwenctl.tools.tool_set import MAX_ROUNDS


def run_chat(setup: ChatSetup) -> ExitCode:
    """Talk until the person leaves. Raises QwenctlError if the model or the session cannot be opened at the start."""
    with suppress_echo():
        model = setup.open_model()
        state = ChatState(model, setup.conversation)
        try:
            setup.screen.note(f"{model.loaded.name} ({model.loaded.description}) - /help for help, Ctrl-D quits")
            if setup.store is not None and setup.resume:
                state = keeping.resume(setup, state, setup.store, setup.resume)
            for named in setup.media:
                state = attach_media(setup, state, named)
            return _talk(setup, state)
        finally:
            model.engine.close()


def _talk(setup: ChatSetup, state: ChatState) -> ExitCode:
    code = ExitCode.INTERRUPTED
    try:
        while (line := _next_line(setup, state.prefill)) is not None:
            state = replace(state, prefill="")
            try:
                state, asked, leaves = _obey(setup, state, line)
                if asked is not None:
                    state = _answer(setup, state, asked)
            except QwenctlError as error:
                setup.screen.error(error)
                state = replace(state, engine_alive=state.engine_alive and error.code != ExitCode.ENGINE_CRASHED)
                continue
            if leaves:
                break
        code = ExitCode.OK
    except KeyboardInterrupt:
        pass
    finally:
        keeping.close(setup, state)
        state.model.engine.close()
    return code


def _next_line(setup: ChatSetup, prefill: str) -> str | None:
    """The next line that says something; None at the end. Ctrl-C does not leave, not even between two lines."""
    with defer_sigint() as let_through:
        while True:
            try:
                with let_through():
                    line = setup.read_line(prefill)
            except KeyboardInterrupt:
                setup.screen.note("Ctrl-D quits")
                continue
            except EOFError:
                return None
            if line.strip():
                return line


def _obey(setup: ChatSetup, state: ChatState, line: str) -> tuple[ChatState, Conversation | None, bool]:
    """The state after `line`, what it asks the model, if anything, and whether to leave."""
    if not line.startswith("/"):
        state = attach(setup, state, line)
        question = prepend_attachments(line, state.attached)
        asked = state.conversation.with_user(question, state.media)
        return replace(state, attached=(), media=()), asked, False
    outcome = run_command(line, state.conversation, state.sampling)
    setup.screen.note(*outcome.lines)
    state = replace(state, conversation=outcome.conversation, media=outcome.media or state.media)
    if outcome.next_action == "generate":
        return state, outcome.conversation, False
    if outcome.next_action in ACTIONS:
        state = ACTIONS[outcome.next_action](setup, state, outcome.argument)
    return state, None, outcome.next_action == "quit"


def _answer(setup: ChatSetup, state: ChatState, asked: Conversation) -> ChatState:
    """Let the model answer, and call functions on the way; what it has said is kept, however the answer ends."""
    if not state.engine_alive:
        state.model.engine.close()
        state = replace(state, model=setup.open_model(), engine_alive=True)
    state = keeping.save_question(setup, replace(state, conversation=asked))
    for _ in range(MAX_ROUNDS):
        state, found = _say(setup, state)
        if found is None:
            return state
        if setup.functions is None or not (found.calls or found.problem):
            return keeping.save(setup, state)
        state, goes_on = run_tool_calls(setup, setup.functions, state, found)
        if not goes_on:
            return keeping.save(setup, state)
    setup.screen.note(f"stopped after {MAX_ROUNDS} rounds of calls; the next message continues")
    return keeping.save(setup, state)


def _say(setup: ChatSetup, state: ChatState) -> tuple[ChatState, ParsedCalls | None]:
    """One answer of the model, and the calls in it; None if it failed."""
    asked = trim_context(state.model, state.conversation, setup.on_full, setup.screen.note)
    state = replace(state, conversation=asked, last=None)
    wanted = request(asked, state.model.loaded, setup.limits, state.session)
    failure: QwenctlError | None = None
    with _stoppable(setup, state) as view:
        try:
            for event in state.model.engine.generate(wanted):
                if isinstance(event, GenerationFinished):
                    state = replace(state, last=event)
                else:
                    view.show(event)
        except QwenctlError as error:
            failure = error
    if failure is not None:
        return _after_failure(setup, state, view, failure), None
    reason = state.last.reason if state.last is not None else "cancelled"
    message, found = answer_with_calls(view.text, view.thinking, view.calls, reason, asked.tools)
    if not found.calls:
        setup.screen.result(found.broken or ("" if found.problem else view.calls))
    if state.last is not None and not (found.calls or found.problem):
        setup.screen.finished(state.last, state.model.loaded, setup.limits.max_tokens)
    return replace(state, conversation=asked.with_turn(message)), found


@contextmanager
def _stoppable(setup: ChatSetup, state: ChatState) -> Iterator[AnswerView]:
    with cancel_on_sigint(state.model.engine.cancel), setup.screen.answer() as view:
        yield view


def _after_failure(setup: ChatSetup, state: ChatState, view: AnswerView, failure: QwenctlError) -> ChatState:
    """Say what happened. A question that cannot be answered is taken back; one cut short keeps what was said."""
    setup.screen.error(failure)
    crashed = failure.code == ExitCode.ENGINE_CRASHED
    if crashed:
        setup.screen.note("  the conversation is saved; the next message loads the model again (/regen asks again)")
    if view.text or view.thinking or view.calls:
        saved = state.conversation.with_answer(view.text + view.calls, view.thinking)
    else:
        saved = state.conversation if crashed else state.conversation.without_last_turn()
    state = replace(state, conversation=saved, engine_alive=not crashed)
    return state if crashed else keeping.discard_question(setup, state)
