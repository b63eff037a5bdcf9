"""The loop of a chat: reads a line, runs it as a command or lets the model answer it, and saves the conversation.

A `ChatSetup` comes in, an exit code goes out. If the engine crashes, only the rest of one answer is lost: the next
question starts a new engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from qwenctl.chat.attachments import prepend_attachments
from qwenctl.chat.build_request import build_request
from qwenctl.chat.context_trimming import trim_context
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.interactive import persistence
from qwenctl.chat.interactive.screen import AnswerView
from qwenctl.chat.interactive.slash_actions import ACTIONS, attach_media, attach_mentions
from qwenctl.chat.interactive.slash_commands import is_command, run_command
from qwenctl.chat.interactive.state import STOPS, ChatSetup, ChatState, ChatStopped
from qwenctl.chat.tool_calls import run_tool_calls
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.pasted_paths import split_dropped_file
from qwenctl.protocol.messages import GenerationFinished
from qwenctl.terminal.signals import cancel_on_sigint, defer_sigint
from qwenctl.tools.calls import ParsedCalls, answer_with_calls
from qwenctl.tools.tool_set import MAX_ROUNDS


def run_chat(setup: ChatSetup) -> ExitCode:
    """Chat until the user quits. Raises QwenctlError if the model or the session cannot be opened at the start."""
    with setup.keyboard.collect():
        model = setup.open_model()
    state = ChatState(model, setup.conversation)
    try:
        setup.screen.show_note(f"{model.loaded.name} ({model.loaded.description}) - /help for help, Ctrl-D quits")
        if setup.store is not None and setup.resume:
            state = persistence.resume(setup, state, setup.store, setup.resume)
            state = replace(state, conversation=setup.changes.apply(state.conversation))
        for named in setup.media:
            state = attach_media(setup, state, named)
        return _run_turns(setup, state)
    finally:
        model.engine.close()


def _run_turns(setup: ChatSetup, state: ChatState) -> ExitCode:
    code, ending = ExitCode.INTERRUPTED, None
    try:
        while (line := _next_line(setup, state.prefill)) is not None:
            state = replace(state, prefill="")
            try:
                state, asked, quits = _handle_line(setup, state, line)
                if asked is not None:
                    state = _answer_question(setup, state, asked)
            except QwenctlError as error:
                setup.screen.show_error(error)
                state = replace(state, engine_alive=state.engine_alive and error.code != ExitCode.ENGINE_CRASHED)
                continue
            if quits:
                break
        code = ExitCode.OK
    except KeyboardInterrupt:
        pass
    except ChatStopped as stopped:
        state = persistence.save_stopped(setup, stopped.state)
        ending = stopped.__cause__
    finally:
        persistence.close(setup, state)
        state.model.engine.close()
    if isinstance(ending, SystemExit | OSError):
        raise ending  # here, so that its own context stays: it may tell of the signal before it
    return code


def _next_line(setup: ChatSetup, prefill: str) -> str | None:
    """Return the next line that is not blank; None at the end of input. Ctrl-C never quits, even between two lines."""
    with defer_sigint() as allow_sigint:
        while True:
            try:
                with allow_sigint():
                    line = setup.read_line(prefill)
            except KeyboardInterrupt:
                setup.screen.show_note("Ctrl-D quits")
                continue
            except EOFError:
                return None
            if line.strip():
                return line


def _handle_line(setup: ChatSetup, state: ChatState, line: str) -> tuple[ChatState, Conversation | None, bool]:
    """Handle one line: return the new state, the conversation to answer (None: nothing), and whether to quit.

    A line that begins with the path of a file, which was dropped on the terminal, mentions that file.
    """
    dropped, rest = ("", "") if is_command(line) else split_dropped_file(line)
    if dropped and not rest:
        return ACTIONS["file"](setup, state, dropped), None, False
    if dropped or not line.startswith("/"):
        line = f"@{line.strip()}" if dropped else line
        state = attach_mentions(setup, state, line)
        question = prepend_attachments(line, state.attached)
        asked = state.conversation.with_user(question, state.media)
        return replace(state, attached=(), media=()), asked, False
    result = run_command(line, state.conversation, state.sampling)
    setup.screen.show_note(*result.lines)
    state = replace(state, conversation=result.conversation, media=result.media or state.media)
    if result.next_action == "generate":
        return state, result.conversation, False
    if result.next_action in ACTIONS:
        state = ACTIONS[result.next_action](setup, state, result.argument)
    return state, None, result.next_action == "quit"


def _answer_question(setup: ChatSetup, state: ChatState, asked: Conversation) -> ChatState:
    """Let the model answer, running the tools it calls; the text is saved, however the answer ends."""
    if not state.engine_alive:
        state.model.engine.close()
        with setup.keyboard.collect():
            state = replace(state, model=setup.open_model(), engine_alive=True)
    state = replace(state, conversation=asked)
    try:
        state = persistence.save_question(setup, state)
        for _ in range(MAX_ROUNDS):
            state, parsed_calls = _generate_answer(setup, state)
            if parsed_calls is None:
                return state
            if setup.functions is None or not (parsed_calls.calls or parsed_calls.problem):
                return persistence.save(setup, state)
            state, may_continue = run_tool_calls(setup, setup.functions, state, parsed_calls)
            if not may_continue:
                return persistence.save(setup, state)
        setup.screen.show_note(f"stopped after {MAX_ROUNDS} rounds of calls; the next message continues")
        return persistence.save(setup, state)
    except STOPS as stop:
        raise ChatStopped(state) from stop


def _generate_answer(setup: ChatSetup, state: ChatState) -> tuple[ChatState, ParsedCalls | None]:
    """Generate one answer; return the state with it, and the calls in it. The calls are None if generation failed."""
    asked = trim_context(state.model, state.conversation, setup.on_full, setup.screen.show_note)
    state = replace(state, conversation=asked, last=None)
    request = build_request(asked, state.model.loaded, setup.limits, state.session)
    failure: QwenctlError | None = None
    view: AnswerView | None = None
    try:
        with _stoppable(setup, state) as view:
            try:
                for event in state.model.engine.generate(request):
                    if isinstance(event, GenerationFinished):
                        state = replace(state, last=event)
                    else:
                        view.show(event)
            except QwenctlError as error:
                failure = error
    except STOPS as stop:
        raise ChatStopped(_with_partial_answer(state, view)) from stop
    if failure is not None:
        return _after_failure(setup, state, view, failure), None
    reason = state.last.reason if state.last is not None else "cancelled"
    controls = state.last.control_offsets if state.last is not None else None
    message, parsed_calls = answer_with_calls(view.text, view.thinking, view.calls, reason, asked.tools, controls)
    if not parsed_calls.calls:
        setup.screen.show_result(parsed_calls.broken or ("" if parsed_calls.problem else view.calls))
    if state.last is not None and not (parsed_calls.calls or parsed_calls.problem):
        setup.screen.show_finish(state.last, state.model.loaded, setup.limits.max_tokens)
    return replace(state, conversation=asked.with_turn(message)), parsed_calls


def _with_partial_answer(state: ChatState, view: AnswerView | None) -> ChatState:
    """Return the state with what there is of an answer, as text; the question alone if there is nothing."""
    if view is None or not (view.text or view.thinking or view.calls):
        return state
    return replace(state, conversation=state.conversation.with_answer(view.text + view.calls, view.thinking), last=None)


@contextmanager
def _stoppable(setup: ChatSetup, state: ChatState) -> Iterator[AnswerView]:
    with cancel_on_sigint(state.model.engine.cancel), setup.keyboard.collect(), setup.screen.show_answer() as view:
        yield view


def _after_failure(setup: ChatSetup, state: ChatState, view: AnswerView, failure: QwenctlError) -> ChatState:
    """Show the error. A partial answer is kept; a question without any is removed, unless the engine crashed."""
    setup.screen.show_error(failure)
    crashed = failure.code == ExitCode.ENGINE_CRASHED
    if crashed:
        setup.screen.show_note(
            "  the conversation is saved; the next message loads the model again (/regen asks again)"
        )
    if view.text or view.thinking or view.calls:
        saved = _with_partial_answer(state, view).conversation
    else:
        saved = state.conversation if crashed else state.conversation.without_last_turn()
    state = replace(state, conversation=saved, engine_alive=not crashed)
    return state if crashed else persistence.discard_question(setup, state)
