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
from qwenctl.commands.options.given import refuse_ineffective
from qwenctl.commands.options.vision_options import VISION_PARAMETERS
from qwenctl.engine.interface import LoadedEngine
from qwenctl.errors import QwenctlError, command_line
from qwenctl.protocol.load import ModelInfo
from qwenctl.protocol.media import Media
from qwenctl.terminal.streams import StatusLine, piped_input, text_writer, warn
from qwenctl.views.answer import format_media_line
from qwenctl.views.loading import follow_loading, follow_prefill

if TYPE_CHECKING:
    from qwenctl.chat.one_shot import AnswerSink


# Options for what is computed only with an answer, or only with an image or a video.
_OF_ANSWERS = frozenset(
    "predict think think_budget on_full json_schema grammar tool_timeout yes temp top_k top_p min_p presence_penalty"
    " frequency_penalty repeat_penalty repeat_last_n seed draft draft_max draft_min verbose image".split()
)
_OF_VIDEOS = ("fps", "max_frames")


def check_single_answer(job: ChatRequest, color: str) -> None:
    """Raise QwenctlError if an option was given that has no effect on one answer, or `color` can have none."""
    if color == "always":
        refuse_ineffective(job.given, ("color",), "on an answer in a pipe, which is plain text")
    if not job.images and not any(message.media for message in job.conversation.messages):
        refuse_ineffective(job.given, VISION_PARAMETERS, "without --image", "leave it out, or add -i FILE")


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
        refuse_ineffective(job.given, _OF_ANSWERS, "without a question: only the prefix is saved")
        _save_prefix(job)
        return
    answer, loaded = _ask(job, prompt, write, talk)
    _show_statistics(answer, loaded, talk)
    _warn_if_cut(job, answer)


def answer_as_json(job: ChatRequest, words: list[str], *, verbose: bool) -> None:
    """Print the answer with thinking, tool calls and statistics as one JSON object. Raises QwenctlError.

    With `verbose`, thinking and statistics also go to standard error.
    """
    hint = "leave it out: the calls are printed, and none is run"
    refuse_ineffective(job.given, ("yes", "tool_timeout"), "beside --json", hint)
    write, talk = text_writer(sys.stdout), text_writer(sys.stderr) if verbose else _discard
    as_data = replace(job, functions=None)
    answer, loaded = _ask(as_data, pipe.read_prompt(words, _piped(job), warn), _discard, talk)
    _show_statistics(answer, loaded, talk)
    write(pipe.as_json(answer, loaded) + "\n")
    _warn_if_cut(job, answer)


def _show_statistics(answer: pipe.CompletedAnswer, loaded: ModelInfo, talk: pipe.Write) -> None:
    thought = "\n" if answer.thinking else ""
    talk(f"{thought}{pipe.statistics_line(answer, loaded)}\n")


def _ask(
    job: ChatRequest, prompt: str, answer: pipe.Write, thinking: pipe.Write
) -> tuple[pipe.CompletedAnswer, ModelInfo]:
    from qwenctl.chat.context_trimming import trim_context
    from qwenctl.chat.one_shot import AnswerSink, answer_once, make_tool_runner

    status, media = StatusLine(sys.stderr), tuple(map(job.resolve_media, job.images))
    _check_videos(job, media)
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


def _check_videos(job: ChatRequest, media: tuple[Media, ...]) -> None:
    """Raise QwenctlError if an option for videos was given, and there is none in the conversation or in `media`."""
    seen = (*media, *(one for message in job.conversation.messages for one in message.media))
    if not any(one.kind == "video" for one in seen):
        refuse_ineffective(job.given, _OF_VIDEOS, "without a video")


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
