"""The options that were given on a command line: those that say nothing, or would have no effect, are refused.

A click context comes in; names of parameters and options as they are typed go out. What an option means is not known
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn

import typer

from qwenctl.errors import QwenctlError

_MAY_BE_EMPTY = frozenset({"resume"})  # --resume without a name: the latest conversation
_MAY_HAVE_EMPTY_WORDS = frozenset({"prompt"})


def given_options(context: typer.Context) -> Mapping[str, str]:
    """The options on the command line (settings do not count), by parameter: as they are written in full."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.opts[0].startswith("-"):
            found[str(parameter.name)] = _spelling(parameter, context.params.get(parameter.name or ""))
    return found


def refuse_empty(context: typer.Context) -> None:
    """Raise QwenctlError if an option was given an empty text: nothing given is not the same as not given."""
    for name, option in given_options(context).items():
        value = context.params.get(name)
        texts = value if isinstance(value, list | tuple) else [value]
        if name not in _MAY_BE_EMPTY and any(isinstance(text, str) and not text.strip() for text in texts):
            raise QwenctlError(f"{option} is empty", "leave it out, or give it a value")


def refuse_empty_words(parameters: Iterable[Any], words: Mapping[str, Any]) -> None:
    """Raise QwenctlError if an option or argument is given as an empty text, which typer would read as a folder's name.

    `parameters` are those of a command, `words` their values as they are typed, by parameter. The words of a prompt may
    be empty: it has other parts.
    """
    for parameter in parameters:
        value, is_option = words.get(parameter.name), parameter.param_type_name == "option"
        texts = value if isinstance(value, list | tuple) else [value]
        if parameter.name in (_MAY_BE_EMPTY if is_option else _MAY_HAVE_EMPTY_WORDS):
            continue
        if any(isinstance(text, str) and not text.strip() for text in texts):
            name = _spelling(parameter, value) if is_option else (parameter.metavar or parameter.name.upper())
            raise QwenctlError(f"{name.strip('[].')} is empty", "leave it out, or give it a value")


def refuse_without(context: typer.Context, needed: str, parameters: Collection[str]) -> None:
    """Raise QwenctlError if one of `parameters` was given: it has no effect without the option `needed`."""
    refuse_ineffective(given_options(context), parameters, f"without {needed}", f"leave it out, or add {needed}")


def refuse_beside(context: typer.Context, other: str, parameters: Collection[str]) -> None:
    """Raise QwenctlError if one of `parameters` was given: it has no effect beside the option `other`."""
    for name, option in given_options(context).items():
        if name in parameters:
            raise QwenctlError(f"{option} and {other} cannot be used together", "leave one of them out")


def refuse_ineffective(
    given: Mapping[str, str], parameters: Collection[str], reason: str, hint: str = "leave it out"
) -> None:
    """Raise QwenctlError if one of `parameters` is among the options `given`: it has no effect, for this `reason`.

    `reason` can follow "has no effect".
    """
    for name, option in given.items():
        if name in parameters:
            _refuse(option, reason, hint)


def refuse_before_subcommand(context: typer.Context) -> None:
    """Raise QwenctlError if a group's option was given before one of its subcommands, which does not get it."""
    if context.invoked_subcommand is None:
        return
    for option in given_options(context).values():
        command = f"{context.command_path} {context.invoked_subcommand}"
        _refuse(option, f"before '{context.invoked_subcommand}'", f"`{command} --help` lists the options of that")


def _refuse(option: str, reason: str, hint: str) -> NoReturn:
    raise QwenctlError(f"{option} has no effect {reason}", hint)


def _spelling(parameter: Any, value: object) -> str:
    names = parameter.secondary_opts if value is False and parameter.secondary_opts else parameter.opts
    return next((name for name in names if name.startswith("--")), str(names[0]))
