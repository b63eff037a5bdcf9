"""A chat job done without a terminal: one answer as text, or as JSON.

A job and the words of the command line come in; the answer goes to standard output, all else to standard error.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from qwenctl.chat import pipe
from qwenctl.commands.chat.chat_job import ChatRequest, open_chat_engine
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import QwenctlError
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.terminal.streams import StatusLine, piped_input, text_writer, warn
from qwenctl.views.answer import format_media_line
from qwenctl.views.loading import follow_loading, follow_prefill

if TYPE_CHECKING:
    from qwenctl.chat.one_shot import AnswerSink


def answer_as_text(job: ChatRequest, words: list[str], *, verbose: bool) -> None:
    """Print the answer as it comes; with `verbose` thinking and statistics on standard error."""
    write, talk = text_writer(sys.stdout), text_writer(sys.stderr) if verbose else _unheard
    by_hand = job.functions.manual_tools if job.functions is not None else ()
    if by_hand:
        hint = 'a "command" beside its name answers; --json prints the calls as data'
        raise QwenctlError(f"there is no way to answer for {min(by_hand)} in a pipe", hint)
    keeps = job.prefix is not None and job.prefix.is_new
    prompt = (pipe.read_optional_prompt if keeps else pipe.read_prompt)(words, _piped(job), warn)
    if not prompt:
        _keep_prefix(job)
        return
    answer, loaded = _ask(job, prompt, write, talk)
    if verbose:
        thought = "\n" if answer.thinking else ""
        talk(f"{thought}{pipe.statistics(answer, loaded)}\n")
    _warn_if_cut(job, answer)


def answer_as_json(job: ChatRequest, words: list[str]) -> None:
    """Print the answer, and all that is known of it, as one JSON object."""
    write = text_writer(sys.stdout)
    as_data = replace(job, functions=None)
    answer, loaded = _ask(as_data, pipe.read_prompt(words, _piped(job), warn), _unheard, _unheard)
    write(pipe.as_json(answer, loaded) + "\n")
    _warn_if_cut(job, answer)


def _ask(
    job: ChatRequest, prompt: str, answer: pipe.Write, thinking: pipe.Write
) -> tuple[pipe.CompletedAnswer, ModelInfo]:
    from qwenctl.chat.context_trimming import trim_context
    from qwenctl.chat.one_shot import AnswerSink, answer_once, make_tool_runner

    status, media = StatusLine(sys.stderr), tuple(map(job.take, job.images))
    listener = AnswerSink(status, answer, thinking)
    caller = make_tool_runner(job.functions, listener, allowed=job.allows_all) if job.functions is not None else None
    session = job.store.open(job.resume) if job.store is not None and job.resume else None
    opened = _open(job, status)
    try:
        _tell_of(media, opened, listener)
        asked = trim_context(
            opened, job.conversation.without_open_question().with_user(prompt, media), job.on_full, warn
        )
        return answer_once(opened, asked, job.limits, job.model, session, listener, caller), opened.loaded
    finally:
        opened.engine.close()
        if session is not None:
            session.close()


def _piped(job: ChatRequest) -> BinaryIO | None:
    """Standard input, unless it is a picture."""
    return None if job.source is not None and job.source.stdin is not None else piped_input()


def _tell_of(media: tuple[Media, ...], opened: LoadedEngine, listener: AnswerSink) -> None:
    """What each picture costs; a bad one is an error before anything is read."""
    for each in media:
        line = format_media_line(each, opened.engine.inspect_media(each))
        listener.status.show(line)
        listener.thinking(f"{line}\n")


def _open(job: ChatRequest, status: StatusLine) -> LoadedEngine:
    return open_chat_engine(
        job, lambda events: follow_loading(events, status), lambda events: follow_prefill(events, status), warn
    )


def _keep_prefix(job: ChatRequest) -> None:
    """Nothing is asked: the prefix is read and kept."""
    _open(job, StatusLine(sys.stderr)).engine.close()
    if job.prefix is not None:
        text_writer(sys.stderr)(f"saved: qwenctl chat --prefix {job.prefix.name}\n")


def _warn_if_cut(job: ChatRequest, answer: pipe.CompletedAnswer) -> None:
    message = pipe.truncation_warning(answer, job.limits.max_tokens)
    if message:
        warn(message)


def _unheard(_text: str) -> None:
    """Where text goes that nobody asked for."""
