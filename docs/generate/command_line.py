"""The command line as values: every command with its usage, help, arguments, options by group, and examples.

typer's root command comes in; `CommandHelp` values go out. What an option's line says is what `--help` prints.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from qwenctl import cli

_EXAMPLES = Path(__file__).with_name("examples.toml")
_COMPLETION = ("install_completion", "show_completion")


@dataclass(frozen=True)
class ParameterHelp:
    """An option or argument: its names with the placeholder of its value, what it means, and notes ("default: 0")."""

    names: str
    meaning: str
    note: str = ""


@dataclass(frozen=True)
class CommandHelp:
    """A command by the words that call it; () is `qwenctl` itself. `options` are by the title of their group.

    `subcommands` are named by their last word.
    """

    path: tuple[str, ...]
    usage: str
    paragraphs: tuple[str, ...]
    arguments: tuple[ParameterHelp, ...]
    options: tuple[tuple[str, tuple[ParameterHelp, ...]], ...]
    examples: tuple[str, ...]
    subcommands: tuple[ParameterHelp, ...] = ()

    @property
    def name(self) -> str:
        """The words that call it."""
        return " ".join(("qwenctl", *self.path))


def read_commands() -> list[CommandHelp]:
    """`qwenctl` itself and every command below it, a group before its commands."""
    examples = tomllib.loads(_EXAMPLES.read_text(encoding="utf-8"))
    return [_command_help(path, command, examples) for path, command in walk(typer.main.get_command(cli.app), ())]


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """`command` and all below it that are shown, each with the words that call it."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from walk(inner, (*path, name))


def make_context(command: Any, path: tuple[str, ...]) -> typer.Context:
    """A context in which `command` says how it is used."""
    return typer.Context(command, info_name=" ".join(("qwenctl", *path)))


def _command_help(path: tuple[str, ...], command: Any, examples: dict[str, Any]) -> CommandHelp:
    context = make_context(command, path)
    groups: dict[str, list[ParameterHelp]] = {}
    arguments = []
    for parameter in command.get_params(context):
        if parameter.hidden or parameter.name in ("help", *_COMPLETION):
            continue
        described = _parameter_help(parameter, context)
        if isinstance(parameter, TyperArgument):
            arguments.append(described)
        elif isinstance(parameter, TyperOption):
            groups.setdefault(parameter.rich_help_panel or "Options", []).append(described)
    return CommandHelp(
        path=path,
        usage=" ".join((context.info_name or "", *command.collect_usage_pieces(context))),
        paragraphs=_paragraphs(command),
        arguments=tuple(arguments),
        options=tuple((title, tuple(found)) for title, found in groups.items()),
        examples=_examples(command.epilog) or tuple(examples.get(" ".join(path) or "qwenctl", ())),
        subcommands=tuple(_subcommands(command)) if isinstance(command, TyperGroup) else (),
    )


def _paragraphs(command: Any) -> tuple[str, ...]:
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
    return tuple(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _subcommands(group: TyperGroup) -> Iterator[ParameterHelp]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield ParameterHelp(name, next(iter(_paragraphs(command)), ""))


def _parameter_help(parameter: Any, context: typer.Context) -> ParameterHelp:
    names, text = parameter.get_help_record(context)
    found = re.fullmatch(r"(.*?)(?:\s*\[((?:default|required|env var|x|\d)[^\]]*)\])?", " ".join(text.split()))
    meaning, note = (found[1], found[2] or "") if found else (text, "")
    return ParameterHelp(" ".join(names.split()), meaning, note)


def _examples(epilog: str | None) -> tuple[str, ...]:
    """The command lines in the text below a command's help."""
    lines = (line.strip().removeprefix("$ ") for line in (epilog or "").splitlines())
    return tuple(line for line in lines if re.search(r"\bqwenctl ", line))
