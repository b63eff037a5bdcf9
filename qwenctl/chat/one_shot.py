"""One answer without a terminal: asked, passed on as it comes, and kept where it goes on with a session.

An answer may call functions; they are run, if that is allowed, until an answer comes that calls none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qwenctl.chat import pipe
from qwenctl.chat.build_request import AnswerLimits, request
from qwenctl.chat.conversation import Conversation
from qwenctl.chat.saved.sessions import OpenSession
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.terminal.streams import StatusLine
from qwenctl.tools.calls import ParsedCalls, answer_with_calls, format_call
from qwenctl.tools.tool_set import MAX_ROUNDS, ToolSet, error_result

ToolRunner = Callable[[ParsedCalls], list[str]]


@dataclass(frozen=True)
class AnswerSink:
    """Where an answer goes, piece by piece, as whole lines, and the thinking and all that is done on the way to it."""

    status: StatusLine
    answer: pipe.Write
    thinking: pipe.Write


def answer_once(
    model: LoadedEngine,
    asked: Conversation,
    limits: AnswerLimits,
    path: Path,
    session: OpenSession | None,
    listener: AnswerSink,
    caller: ToolRunner | None = None,
) -> pipe.CompletedAnswer:
    """Answer the last question of `asked` by the model in the file `path`.

    `caller` gives the results of the calls in an answer; without one they are a part of it. With a `session` its state
    is where the engine begins, and the answer is kept in it. Raises QwenctlError.
    """
    if session is not None:
        model.engine.restore(session.state_file)
    output, answered = _answered(model, asked, limits, session, listener, caller)
    if session is not None:
        session.keep(answered, path, model.loaded)
        model.engine.warm_prefix(
            answered.prompt_messages,
            enable_thinking=answered.think,
            tools=answered.tools,
            state_path=session.state_file,
        )
        model.engine.flush()
    return output


def make_tool_runner(functions: ToolSet, listener: AnswerSink, *, allowed: bool) -> ToolRunner:
    """A caller that runs `functions`, if that is `allowed`, and tells the listener."""

    def results(found: ParsedCalls) -> list[str]:
        results = []
        for one in found.calls:
            if not (allowed or one.problem):
                hint = "--yes runs the functions, --json prints the calls as data"
                raise QwenctlError(f"the model wants to call {format_call(one.call)}", hint, ExitCode.NO_PERMISSION)
            results.append(error_result(one.problem) if one.problem else functions.run(one.call))
            listener.thinking(f"\n→ {format_call(one.call)}\n{results[-1]}\n")
        return results + ([error_result(found.problem)] if found.problem else [])

    return results


def _answered(
    model: LoadedEngine,
    talk: Conversation,
    limits: AnswerLimits,
    session: OpenSession | None,
    listener: AnswerSink,
    caller: ToolRunner | None,
) -> tuple[pipe.CompletedAnswer, Conversation]:
    """The answer, and the conversation with it and all calls on the way."""
    held: list[str] = []  # until it is known that no call follows, so that only the answer is passed on
    write = held.append if talk.tools else listener.answer
    for _ in range(MAX_ROUNDS):
        held.clear()
        events = model.engine.generate(request(talk, model.loaded, limits, session))
        output = pipe.stream_answer(events, listener.status, write, listener.thinking)
        message, found = answer_with_calls(
            output.text, output.thinking, output.calls, output.finished.reason, talk.tools
        )
        talk = talk.with_turn(message)
        if caller is None or not (found.calls or found.problem):
            output = replace(output, text=message.content, tool_calls=message.tool_calls)
            rest = output.text if talk.tools else ""
            listener.answer(rest if output.text.endswith("\n") else f"{rest}\n")
            return output, talk
        listener.thinking(message.content)
        talk = talk.with_results(caller(found))
    raise QwenctlError(f"no answer after {MAX_ROUNDS} rounds of calls", "--verbose shows them", ExitCode.BAD_DATA)
