"""`qwenctl chat`: a conversation on a terminal, or one answer in a pipe.

Options come in and become a `ChatRequest`; `chat.interactive` or `single_answer` does the work. Only the choice between
the two is made here, and nothing heavy is imported before it, so that `--help` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.options.given import (
    given_options,
    refuse_beside,
    refuse_empty,
    refuse_ineffective,
    refuse_without,
)
from qwenctl.commands.options.load_options import with_drafts, with_load_options
from qwenctl.commands.options.template_options import with_template_options
from qwenctl.commands.options.vision_options import MediaOptions, with_media_options
from qwenctl.errors import QwenctlError
from qwenctl.files.paths import state_folder
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.load import TemplateOverride
from qwenctl.terminal.keyboard import Keyboard
from qwenctl.terminal.sanitize import replace_surrogates
from qwenctl.terminal.streams import is_terminal

if TYPE_CHECKING:
    from qwenctl.chat.conversation import Conversation, ConversationChanges
    from qwenctl.commands.chat.chat_job import ChatRequest

Prompt = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="The question; without it, a chat starts on a terminal.")
]


@with_media_options
@with_load_options
@with_template_options
def chat_command(
    context: typer.Context,
    prompt: Prompt = None,
    model: options.Model = None,
    load: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    template: TemplateOverride = TemplateOverride(),  # noqa: B008 - frozen
    predict: options.Predict = -1,
    system_prompt: options.SystemPrompt = "",
    images: tuple[str, ...] = (),
    media: MediaOptions = MediaOptions(),  # noqa: B008 - frozen
    think: options.Think = True,
    think_budget: options.ThinkBudget = -1,
    resume: options.Resume = None,
    prefix: options.PrefixOption = None,
    save_as: options.SaveAs = None,
    no_save: options.NoSave = False,
    on_full: options.OnFullOption = "stop",
    json_schema: options.JsonSchema = None,
    grammar: options.GrammarFile = None,
    tools: options.ToolsFile = None,
    tool_timeout: options.ToolTimeout = 60,
    yes: options.Yes = False,
    temp: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    repeat_penalty: options.RepeatPenalty = None,
    repeat_last_n: options.RepeatLastN = None,
    seed: options.Seed = None,
    draft: options.Draft = "auto",
    draft_max: options.DraftMax = 0,
    draft_min: options.DraftMin = 0,
    json: options.Json = False,
    verbose: options.Verbose = False,
    no_history: options.NoHistory = False,
    color: options.Color = "auto",
) -> None:
    """Chat with a model, or get one answer in a pipe.

    With PROMPT or piped input, only the answer goes to standard output. Sampling options default to the values
    published for the model.

    A chat on a terminal is saved and can be resumed later (--resume); an answer in a pipe is not saved, unless it
    resumes a conversation. A long text that many conversations start with is evaluated only once: save it with --prefix
    FILE --save-as NAME, then use --prefix NAME. -i sends images and videos, if the model has an mmproj file. With
    --tools the model may call functions: a chat asks before each call, a pipe needs --yes, and --json prints the calls
    as data.
    """
    from qwenctl.chat.build_request import AnswerLimits
    from qwenctl.chat.conversation import Conversation
    from qwenctl.commands.chat.chat_job import load_tools, make_chat_request, media_context, with_prefix, with_tools

    _check_given(context, has_tools=tools is not None, thinks=think, drafts=draft != "off")
    named = {
        "temperature": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty,
        "repeat_penalty": repeat_penalty, "repeat_last_n": repeat_last_n,
    }  # fmt: skip
    limits = AnswerLimits(predict, *options.answer_constraints(grammar, json_schema))
    sampling = {name: value for name, value in named.items() if value is not None}
    conversation = Conversation(think=think, think_budget=think_budget, sampling=sampling)
    conversation = conversation.with_system(replace_surrogates(system_prompt))
    load = replace(with_drafts(load, draft, draft_max, draft_min), template=template)
    changes = _changes(context, conversation, named)
    job = make_chat_request(model, load, conversation, limits, resume, on_full, saves=not no_save, changes=changes)
    job = replace(with_prefix(job, prefix, save_as), given=given_options(context), images=images)
    _check_form(job, prompt or [], color, as_json=json)
    with load_tools(tools, tool_timeout) as functions, media_context(job, replace(media, images=images)) as job:
        job = with_tools(job, functions, auto_approve_tools=yes)
        _run(job, prompt or [], color, as_json=json, verbose=verbose, keep_history=not no_history)


def _check_given(context: typer.Context, *, has_tools: bool, thinks: bool, drafts: bool) -> None:
    """Raise QwenctlError if an option was given that says nothing or has no effect."""
    refuse_empty(context)
    if not has_tools:
        refuse_without(context, "--tools", ("tool_timeout", "yes"))
    if not thinks:
        refuse_beside(context, "--no-think", ("think_budget",))
    if not drafts:
        refuse_beside(context, "--draft off", ("draft_max", "draft_min"))


def _changes(
    context: typer.Context, asked: Conversation, sampling: Mapping[str, float | int | None]
) -> ConversationChanges:
    """What the command line changes in a saved conversation, which wins over settings."""
    from qwenctl.chat.conversation import ConversationChanges

    typed = given_options(context)
    return ConversationChanges(
        asked.system if "system_prompt" in typed else None,
        asked.think if "think" in typed else None,
        asked.think_budget if "think_budget" in typed else None,
        {name: value for name, value in sampling.items() if {"temperature": "temp"}.get(name, name) in typed},
    )


def _is_conversation(words: list[str], *, as_json: bool) -> bool:
    """Whether to chat on the terminal: there is one, and no prompt."""
    return not words and not as_json and is_terminal(sys.stdin) and is_terminal(sys.stdout)


def _check_form(job: ChatRequest, words: list[str], color: str, *, as_json: bool) -> None:
    """Raise QwenctlError if an option was given that has no effect in a chat on a terminal, or on a single answer."""
    from qwenctl.commands.chat.single_answer import check_single_answer

    if _is_conversation(words, as_json=as_json):
        refuse_ineffective(job.given, ("verbose",), "in a chat on a terminal", "leave it out, or add a PROMPT")
    else:
        check_single_answer(job, color)


def _run(
    job: ChatRequest,
    words: list[str],
    color: Literal["auto", "always", "never"],
    *,
    as_json: bool,
    verbose: bool,
    keep_history: bool,
) -> None:
    """Start a chat if there is a terminal and no prompt; otherwise give one answer."""
    from qwenctl.commands.chat.single_answer import answer_as_json, answer_as_text

    if _is_conversation(words, as_json=as_json):
        _converse(job, color, keep_history=keep_history)
    elif as_json:
        answer_as_json(job, words, verbose=verbose)
    else:
        answer_as_text(job, words, verbose=verbose)


def _history_folder() -> Path | None:
    """The folder for the input history; None if it cannot be created: the history is then in memory."""
    try:
        return state_folder()
    except QwenctlError:
        return None


def _converse(job: ChatRequest, color: Literal["auto", "always", "never"], *, keep_history: bool) -> None:
    with Keyboard() as keyboard:  # before what takes long to import: keys may come meanwhile
        code = _run_chat(job, color, keyboard, keep_history=keep_history)
    if code:
        raise typer.Exit(code)


def _run_chat(
    job: ChatRequest, color: Literal["auto", "always", "never"], keyboard: Keyboard, *, keep_history: bool
) -> int:
    from qwenctl.chat.interactive.line_input import LineInput, ask, open_history
    from qwenctl.chat.interactive.loop import run_chat
    from qwenctl.chat.interactive.screen import Screen, make_console
    from qwenctl.chat.interactive.state import ChatSetup
    from qwenctl.commands.chat.chat_job import can_save, open_chat_engine

    if job.store is not None and not job.resume and not can_save():
        job = replace(job, store=None)
    console = make_console(color)
    screen = Screen(console)
    history = open_history(_history_folder() if keep_history else None)
    setup = ChatSetup(
        open_model=lambda: open_chat_engine(
            job, lambda events: screen.follow_loading(job.model.name, events), screen.follow_prefill, screen.show_note
        ),
        read_line=LineInput(
            history, job.store.names if job.store else list, color=not console.no_color, keyboard=keyboard
        ),
        screen=screen,
        conversation=job.conversation,
        limits=job.limits,
        model=job.model,
        store=job.store,
        resume=job.resume,
        on_full=job.on_full,
        ask=lambda question: ask(question, keyboard),
        functions=job.functions,
        auto_approve_tools=job.auto_approve_tools,
        resolve_media=job.resolve_media,
        media=job.images,
        keyboard=keyboard,
        changes=job.changes,
    )
    return run_chat(setup)
