"""One answer without a terminal: generated, streamed to the output, and saved if it belongs to a session.

A loaded model and a conversation come in; the answer goes out. While an answer calls functions, and they may be run,
their results are added and the model answers again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from qwenctl.chat import pipe
from qwenctl.chat.build_request import AnswerLimits, build_request
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
    """Writers for one answer: `answer` for its text, `thinking` for thinking and tool calls, `status` for progress."""

    status: StatusLine
    answer: pipe.Write
    thinking: pipe.Write


def answer_once(
    model: LoadedEngine,
    conversation: Conversation,
    limits: AnswerLimits,
    path: Path,
    session: OpenSession | None,
    sink: AnswerSink,
    run_calls: ToolRunner | None = None,
) -> pipe.CompletedAnswer:
    """Answer the last question of `conversation` with the model loaded from `path`.

    `run_calls` returns the results of the calls in an answer; without it the calls are returned with the answer. With
    a `session` the engine starts from its saved state, and the answer is saved in it. Raises QwenctlError if the engine
    fails, a call is not allowed, or `MAX_ROUNDS` answers in a row call functions.
    """
    if session is not None:
        model.engine.restore(session.state_file)
    output, answered = _answer_with_tools(model, conversation, limits, session, sink, run_calls)
    if session is not None:
        session.save(answered, path, model.loaded)
        model.engine.warm_prefix(
            answered.prompt_messages,
            enable_thinking=answered.think,
            tools=answered.tools,
            state_path=session.state_file,
        )
        model.engine.flush()
    return output


def make_tool_runner(functions: ToolSet, sink: AnswerSink, *, allowed: bool) -> ToolRunner:
    """Return a function that runs the calls of an answer with `functions`, and writes them to `sink.thinking`.

    It raises QwenctlError (NO_PERMISSION) for a call if running is not `allowed`.
    """

    def results(parsed_calls: ParsedCalls) -> list[str]:
        results = []
        for parsed in parsed_calls.calls:
            if not (allowed or parsed.problem):
                hint = "--yes runs the functions, --json prints the calls as data"
                raise QwenctlError(f"the model wants to call {format_call(parsed.call)}", hint, ExitCode.NO_PERMISSION)
            results.append(error_result(parsed.problem) if parsed.problem else functions.run(parsed.call))
            sink.thinking(f"\n→ {format_call(parsed.call)}\n{results[-1]}\n")
        return results + ([error_result(parsed_calls.problem)] if parsed_calls.problem else [])

    return results


def _answer_with_tools(
    model: LoadedEngine,
    conversation: Conversation,
    limits: AnswerLimits,
    session: OpenSession | None,
    sink: AnswerSink,
    run_calls: ToolRunner | None,
) -> tuple[pipe.CompletedAnswer, Conversation]:
    """Return the answer, and the conversation with it and with all calls and results before it."""
    held: list[str] = []  # text of an answer that may still call functions: only the last answer is written
    write = held.append if conversation.tools else sink.answer
    for _ in range(MAX_ROUNDS):
        held.clear()
        events = model.engine.generate(build_request(conversation, model.loaded, limits, session))
        output = pipe.stream_answer(events, sink.status, write, sink.thinking)
        message, parsed_calls = answer_with_calls(
            output.text,
            output.thinking,
            output.calls,
            output.finished.reason,
            conversation.tools,
            output.finished.control_offsets,
        )
        conversation = conversation.with_turn(message)
        if run_calls is None or not (parsed_calls.calls or parsed_calls.problem):
            output = replace(output, text=message.content, tool_calls=message.tool_calls)
            rest = output.text if conversation.tools else ""
            sink.answer(rest if output.text.endswith("\n") else f"{rest}\n")
            return output, conversation
        sink.thinking(message.content)
        conversation = conversation.with_results(run_calls(parsed_calls))
    raise QwenctlError(f"no answer after {MAX_ROUNDS} rounds of calls", "--verbose shows them", ExitCode.BAD_DATA)
