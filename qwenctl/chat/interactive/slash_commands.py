"""Slash commands: the lines of a chat that start with a slash.

A line and a conversation come in; a new conversation, lines to show and the next action go out. The terminal, files and
the engine are not known here (`slash_actions`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from qwenctl.chat.conversation import Conversation
from qwenctl.errors import QwenctlError
from qwenctl.models.sampling import SAMPLING_OPTIONS, find_option, parse_number, parse_value
from qwenctl.protocol.media import Media
from qwenctl.protocol.messages import Sampling

NextAction = Literal[
    "ask", "generate", "stats", "show", "sessions", "save", "load", "private", "delete", "export", "copy", "edit",
    "file", "new", "tools", "image", "quit",
]  # fmt: skip

_ALIASES = {"/exit": "/quit", "/bye": "/quit", "/?": "/help", "/reset": "/clear", "/new": "/clear"}
_KEYS = (
    "Enter sends, Alt-Enter or Ctrl-J starts a new line, Ctrl-G opens an editor.",
    'Text between """ and """ can span lines. Ctrl-C stops an answer, Ctrl-D quits.',
)


_MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True)
class CommandResult:
    """The result of a slash command: the new conversation, lines to show, and what to do next.

    `argument` belongs to the action; `media` goes with the next question.
    """

    conversation: Conversation
    lines: tuple[str, ...] = ()
    next_action: NextAction = "ask"
    argument: str = ""
    media: tuple[Media, ...] = ()


Run = Callable[[Conversation, str, Sampling], CommandResult]


@dataclass(frozen=True)
class SlashCommand:
    """A command: what a user types, with `metavar` for its argument ("" if it takes none), and what it does.

    `run` gets the conversation, the argument and the sampling parameters in use, and raises QwenctlError.
    """

    name: str
    metavar: str
    help: str
    run: Run


def run_command(line: str, conversation: Conversation, sampling: Sampling) -> CommandResult:
    """Run the command in `line`. `sampling` has the current parameters, for `/set` to list.

    Raises QwenctlError if there is no such command, or its argument is wrong.
    """
    name, _, rest = line.strip().partition(" ")
    name, rest = _ALIASES.get(name.lower(), name.lower()), rest.strip()
    if name in COMMANDS:
        return COMMANDS[name].run(conversation, rest, sampling)
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    raise QwenctlError(
        f"no such command: {name}",
        f"did you mean {near[0]}?" if near else "/help lists them; a space before the slash sends it as text",
    )


def is_command(line: str) -> bool:
    """Whether the first word of `line` is a slash command."""
    name = line.strip().partition(" ")[0].lower()
    return _ALIASES.get(name, name) in COMMANDS


def _help(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    usages = {f"{one.name} {one.metavar}": one.help for one in COMMANDS.values()}
    width = max(map(len, usages))
    listed = [f"{usage:<{width}}  {meaning}" for usage, meaning in usages.items()]
    return CommandResult(conversation, (*listed, "", *_KEYS))


def _think(conversation: Conversation, choice: str, _sampling: Sampling) -> CommandResult:
    word, _, rest = choice.lower().partition(" ")
    if word == "budget":
        try:
            budget = int(parse_number(rest.strip(), 0, _MAX_TOKENS, is_integer=True))
        except QwenctlError as error:
            raise QwenctlError(f"/think budget: {error.message}", "/think budget 2000") from error
        return CommandResult(conversation.with_think(True, budget), (f"thinking is on, for {budget:,} tokens at most",))
    wanted = {"": not conversation.think, "on": True, "off": False}.get(choice.lower())
    if wanted is None:
        raise QwenctlError(f"/think takes on, off or budget N, not {choice!r}", "/think on")
    return CommandResult(conversation.with_think(wanted), (f"thinking is {'on' if wanted else 'off'}",))


def _thinking(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    thought = conversation.last_thinking.strip()
    return CommandResult(conversation, tuple(thought.split("\n")) if thought else ("no thinking yet",))


def _system(conversation: Conversation, text: str, _sampling: Sampling) -> CommandResult:
    return CommandResult(conversation.with_system(text), ("system prompt set" if text else "no system prompt",))


def _clear(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    return CommandResult(conversation.reset(), ("a new conversation",), next_action="new")


def _regenerate(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    before = conversation.without_last_answer()
    if not before.awaits_answer:
        raise QwenctlError("no question yet")
    return CommandResult(before, next_action="generate")


def _undo(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    before = conversation.without_last_turn()
    if before == conversation:
        raise QwenctlError("nothing to undo")
    asked = conversation.without_last_answer().messages[-1].content.strip().split("\n")[0]
    return CommandResult(before, (f"removed: {asked[:60]}",))


def _edit(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    if not conversation.last_question:
        raise QwenctlError("no question yet")
    before, media = conversation.without_last_turn(), conversation.last_media
    return CommandResult(before, next_action="edit", argument=conversation.last_question, media=media)


def _copy(conversation: Conversation, _rest: str, _sampling: Sampling) -> CommandResult:
    if not conversation.last_answer:
        raise QwenctlError("no answer yet")
    return CommandResult(conversation, next_action="copy", argument=conversation.last_answer)


def _action(action: NextAction) -> Run:
    """Return a command that leaves the conversation unchanged and takes no argument."""
    return lambda conversation, _rest, _sampling: CommandResult(conversation, next_action=action)


def _action_with_argument(action: NextAction, needed: str, example: str) -> Run:
    """Return a command that leaves the conversation unchanged and needs an argument, described as `needed`."""

    def command(conversation: Conversation, rest: str, _sampling: Sampling) -> CommandResult:
        if not rest:
            raise QwenctlError(f"/{action} needs {needed}", example)
        return CommandResult(conversation, next_action=action, argument=rest)

    return command


def _optional_name(action: NextAction) -> Run:
    """Return a command that leaves the conversation unchanged and takes an argument or none."""
    return lambda conversation, rest, _sampling: CommandResult(conversation, next_action=action, argument=rest)


def _set(conversation: Conversation, rest: str, sampling: Sampling) -> CommandResult:
    if not rest:
        return CommandResult(conversation, tuple(sampling_lines(sampling)))
    name, _, text = rest.replace("=", " ").partition(" ")
    option = find_option(name)
    if not text.strip():
        raise QwenctlError(
            f"/set {option.name} needs a value", f"/set {option.name} {_format_value(getattr(sampling, option.field))}"
        )
    try:
        value = parse_value(option, text.strip())
    except QwenctlError as error:
        raise QwenctlError(f"{option.name}: {error.message}") from error
    return CommandResult(conversation.with_sampling(option.field, value), (f"{option.name} is {_format_value(value)}",))


def sampling_lines(sampling: Sampling) -> list[str]:
    """Return a line for each sampling parameter: name, value and meaning."""
    values = asdict(sampling)
    return [
        f"{name:<18} {_format_value(values[option.field]):>8}  {option.help}"
        for name, option in SAMPLING_OPTIONS.items()
    ]


def _format_value(value: float | int | None) -> str:
    return "random" if value is None else f"{value:g}"


COMMANDS: Mapping[str, SlashCommand] = {
    command.name: command
    for command in (
        SlashCommand("/help", "", "show this list", _help),
        SlashCommand(
            "/think", "[on|off|budget N]", "let the model think before it answers, for at most N tokens", _think
        ),
        SlashCommand("/thinking", "", "show what the model thought before its last answer", _thinking),
        SlashCommand("/system", "TEXT", "set the system prompt; without TEXT, remove it", _system),
        SlashCommand(
            "/file",
            "PATH",
            "send a file or a folder's files with the next question (or write @PATH in it)",
            _action_with_argument("file", "a path", "/file notes.txt"),
        ),
        SlashCommand(
            "/image",
            "PATH",
            "send an image or a video with the next question (or write @PATH in it)",
            _action_with_argument("image", "a path", "/image photo.png"),
        ),
        SlashCommand("/tools", "", "list the functions that the model may call", _action("tools")),
        SlashCommand("/regen", "", "answer the last question again", _regenerate),
        SlashCommand("/edit", "", "edit the last question and ask it again", _edit),
        SlashCommand("/undo", "", "remove the last question and its answer", _undo),
        SlashCommand("/copy", "", "copy the last answer to the clipboard", _copy),
        SlashCommand("/clear", "", "start a new conversation with the same system prompt", _clear),
        SlashCommand("/sessions", "", "list saved conversations", _action("sessions")),
        SlashCommand(
            "/load",
            "NAME",
            "resume a saved conversation",
            _action_with_argument("load", "a name", "/sessions lists them"),
        ),
        SlashCommand(
            "/save",
            "NAME",
            "save this conversation under a name",
            _action_with_argument("save", "a name", "/save my-project"),
        ),
        SlashCommand("/private", "", "save nothing from now on; what is saved stays", _action("private")),
        SlashCommand(
            "/delete",
            "[NAME]",
            "delete this saved conversation, or another one, after asking",
            _optional_name("delete"),
        ),
        SlashCommand(
            "/export",
            "FILE",
            "write the conversation to a file, as Markdown or JSON",
            _action_with_argument("export", "a file", "/export chat.md"),
        ),
        SlashCommand("/stats", "", "show context, memory and speed", _action("stats")),
        SlashCommand("/show", "", "show model, session, system prompt and settings", _action("show")),
        SlashCommand("/set", "[NAME VALUE]", "set a sampling parameter, or list them", _set),
        SlashCommand("/quit", "", "quit (also Ctrl-D)", _action("quit")),
    )
}
