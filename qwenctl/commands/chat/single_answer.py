"""A chat without a terminal: one answer as text, or as JSON.

A `ChatRequest` and the words of the prompt come in; the answer goes to standard output, everything else to standard
error.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from qwenctl.chat import pipe
from qwenctl.commands.chat.chat_job import ChatRequest, open_chat_engine
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import QwenctlError, command_line
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.terminal.streams import StatusLine, piped_input, text_writer, warn
from qwenctl.views.answer import format_media_line
from qwenctl.views.loading import follow_loading, follow_prefill

if TYPE_CHECKING:
    from qwenctl.chat.one_shot import AnswerSink


def answer_as_text(job: ChatRequest, words: list[str], *, verbose: bool) -> None:
    """Stream the answer; with `verbose`, thinking and statistics go to standard error. Raises QwenctlError."""
    write, talk = text_writer(sys.stdout), text_writer(sys.stderr) if verbose else _discard
    by_hand = job.functions.manual_tools if job.functions is not None else ()
    if by_hand:
        hint = 'give it a "command" in the --tools file, or print the calls as data with --json'
        raise QwenctlError(f"{min(by_hand)} has no command, and in a pipe nobody can type its result", hint)
    saves = job.prefix is not None and job.prefix.is_new
    prompt = (pipe.read_optional_prompt if saves else pipe.read_prompt)(words, _piped(job), warn)
    if not prompt:
        _save_prefix(job)
        return
    answer, loaded = _ask(job, prompt, write, talk)
    if verbose:
        thought = "\n" if answer.thinking else ""
        talk(f"{thought}{pipe.statistics_line(answer, loaded)}\n")
    _warn_if_cut(job, answer)


def answer_as_json(job: ChatRequest, words: list[str]) -> None:
    """Print the answer with thinking, tool calls and statistics as one JSON object. Raises QwenctlError."""
    write = text_writer(sys.stdout)
    as_data = replace(job, functions=None)
    answer, loaded = _ask(as_data, pipe.read_prompt(words, _piped(job), warn), _discard, _discard)
    write(pipe.as_json(answer, loaded) + "\n")
    _warn_if_cut(job, answer)


def _ask(
    job: ChatRequest, prompt: str, answer: pipe.Write, thinking: pipe.Write
) -> tuple[pipe.CompletedAnswer, ModelInfo]:
    from qwenctl.chat.context_trimming import trim_context
    from qwenctl.chat.one_shot import AnswerSink, answer_once, make_tool_runner

    status, media = StatusLine(sys.stderr), tuple(map(job.resolve_media, job.images))
    listener = AnswerSink(status, answer, thinking)
    caller = (
        make_tool_runner(job.functions, listener, allowed=job.auto_approve_tools) if job.functions is not None else None
    )
    session = job.store.open(job.resume) if job.store is not None and job.resume else None
    opened = _open(job, status)
    try:
        _show_media_tokens(media, opened, listener)
        conversation = trim_context(
            opened, job.conversation.without_open_question().with_user(prompt, media), job.on_full, warn
        )
        return answer_once(opened, conversation, job.limits, job.model, session, listener, caller), opened.loaded
    finally:
        opened.engine.close()
        if session is not None:
            session.close()


def _piped(job: ChatRequest) -> BinaryIO | None:
    """Standard input as a part of the prompt; None if it is a terminal, or an image (-i -)."""
    return None if job.source is not None and job.source.stdin is not None else piped_input()


def _show_media_tokens(media: tuple[Media, ...], opened: LoadedEngine, listener: AnswerSink) -> None:
    """Show how many tokens each image takes; a bad one raises QwenctlError before anything is evaluated."""
    for each in media:
        line = format_media_line(each, opened.engine.inspect_media(each))
        listener.status.show(line)
        listener.thinking(f"{line}\n")


def _open(job: ChatRequest, status: StatusLine) -> LoadedEngine:
    return open_chat_engine(
        job, lambda events: follow_loading(events, status), lambda events: follow_prefill(events, status), warn
    )


def _save_prefix(job: ChatRequest) -> None:
    """Without a prompt, only evaluate and save the prefix."""
    _open(job, StatusLine(sys.stderr)).engine.close()
    if job.prefix is not None:
        text_writer(sys.stderr)(f"saved: {command_line('chat', '--prefix', job.prefix.name)}\n")


def _warn_if_cut(job: ChatRequest, answer: pipe.CompletedAnswer) -> None:
    message = pipe.truncation_warning(answer, job.limits.max_tokens)
    if message:
        warn(message)


def _discard(_text: str) -> None:
    """Discards text that was not requested."""
