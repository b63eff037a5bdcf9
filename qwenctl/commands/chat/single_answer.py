"""A chat job done without a terminal: one answer as text, or as JSON.

A job and the words of the command line come in; the answer goes to standard output, all else to standard error.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from qwenctl.chat import pipe
from qwenctl.commands.chat.chat_job import ChatJob, open_model
from qwenctl.engine.interface import OpenModel
from qwenctl.errors import QwenctlError
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Loaded
from qwenctl.terminal.streams import StatusLine, piped_input, text_writer, warn
from qwenctl.views.answer import seen_line

if TYPE_CHECKING:
    from qwenctl.chat.one_shot import Listener


def answer_as_text(job: ChatJob, words: list[str], *, verbose: bool) -> None:
    """Print the answer as it comes; with `verbose` thinking and statistics on standard error."""
    write, talk = text_writer(sys.stdout), text_writer(sys.stderr) if verbose else _unheard
    by_hand = job.functions.answered_by_hand if job.functions is not None else ()
    if by_hand:
        hint = 'a "command" beside its name answers; --json gives calls out as data'
        raise QwenctlError(f"nobody can answer for {min(by_hand)} in a pipe", hint)
    keeps = job.prefix is not None and job.prefix.is_new
    prompt = (pipe.read_if_any if keeps else pipe.read_prompt)(words, _piped(job), warn)
    if not prompt:
        _keep_prefix(job)
        return
    answer, loaded = _ask(job, prompt, write, talk)
    if verbose:
        thought = "\n" if answer.thinking else ""
        talk(f"{thought}{pipe.statistics(answer, loaded)}\n")
    _warn_if_cut(job, answer)


def answer_as_json(job: ChatJob, words: list[str]) -> None:
    """Print the answer, and all that is known of it, as one JSON object."""
    write = text_writer(sys.stdout)
    as_data = replace(job, functions=None)
    answer, loaded = _ask(as_data, pipe.read_prompt(words, _piped(job), warn), _unheard, _unheard)
    write(pipe.as_json(answer, loaded) + "\n")
    _warn_if_cut(job, answer)


def _ask(job: ChatJob, prompt: str, answer: pipe.Write, thinking: pipe.Write) -> tuple[pipe.Answer, Loaded]:
    from qwenctl.chat.context_trimming import make_room
    from qwenctl.chat.one_shot import Listener, calls_run, one_answer

    status, media = StatusLine(sys.stderr), tuple(map(job.take, job.images))
    listener = Listener(status, answer, thinking)
    caller = calls_run(job.functions, listener, allowed=job.allows_all) if job.functions is not None else None
    session = job.store.open(job.resume) if job.store is not None and job.resume else None
    opened = _open(job, status)
    try:
        _tell_of(media, opened, listener)
        asked = make_room(opened, job.conversation.answered().with_user(prompt, media), job.on_full, warn)
        return one_answer(opened, asked, job.limits, job.model, session, listener, caller), opened.loaded
    finally:
        opened.engine.close()
        if session is not None:
            session.close()


def _piped(job: ChatJob) -> BinaryIO | None:
    """Standard input, unless it is a picture."""
    return None if job.source is not None and job.source.stdin is not None else piped_input()


def _tell_of(media: tuple[Media, ...], opened: OpenModel, listener: Listener) -> None:
    """What each picture costs; a bad one is an error before anything is read."""
    for each in media:
        line = seen_line(each, opened.engine.look(each))
        listener.status.show(line)
        listener.thinking(f"{line}\n")


def _open(job: ChatJob, status: StatusLine) -> OpenModel:
    return open_model(
        job, lambda events: pipe.load(events, status), lambda events: pipe.follow_reading(events, status), warn
    )


def _keep_prefix(job: ChatJob) -> None:
    """Nothing is asked: the prefix is read and kept."""
    _open(job, StatusLine(sys.stderr)).engine.close()
    if job.prefix is not None:
        text_writer(sys.stderr)(f"kept: qwenctl chat --prefix {job.prefix.name}\n")


def _warn_if_cut(job: ChatJob, answer: pipe.Answer) -> None:
    message = pipe.cut_short(answer, job.limits.max_tokens)
    if message:
        warn(message)


def _unheard(_text: str) -> None:
    """Where text goes that nobody asked for."""
