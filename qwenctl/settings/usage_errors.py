"""Turns typer's usage errors into this program's messages, with a similar valid name as a hint.

An exception and the arguments come in, a `QwenctlError` goes out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.rules import find_nearest


def explain_usage(error: Exception, arguments: Sequence[str]) -> QwenctlError | None:
    """Return `error` as an error with a hint; None if it is not about the command line `arguments`."""
    if not isinstance(error, typer.TyperException):
        return None
    context: Any = getattr(error, "ctx", None)
    options = _option_names(context)
    path = (
        context.command_path if context else " ".join(["qwenctl", *(word for word in arguments[:1] if word[:1] != "-")])
    )
    message = error.format_message()
    wrong = _unknown_option(error, arguments, options) if context else ""
    if wrong:
        message = f"no such option: {wrong}"
    known, word = (options, wrong) if wrong else _subcommand_names(context, message)
    near = find_nearest(word, known)
    hint = f"did you mean {near}? `{path} --help` lists all" if near else f"{path} --help"
    hint = getattr(error.__cause__, "hint", "") or hint  # from a parser of this program
    return QwenctlError(normalize_message(message), hint, ExitCode.USAGE)


def normalize_message(message: str) -> str:
    """Return typer's `message` in this program's style: one line, lower-case start, without suggestions."""
    line = " ".join(message.split()).removesuffix(".").replace("Value error, ", "")
    line = re.sub(r"\s*\(Possible options?: [^)]*\)|\. Did you mean .*$", "", line)
    return line[:1].lower() + line[1:]


def _option_names(context: Any) -> list[str]:
    parameters = context.command.get_params(context) if context else []
    return [
        name
        for parameter in parameters
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    ]


def _unknown_option(error: Exception, arguments: Sequence[str], known: Sequence[str]) -> str:
    """Return the option that does not exist, if that is the mistake; else "".

    For `-ngk 5`, typer reports that `-n` has the bad value "gk"; the user meant one option.
    """
    named = str(getattr(error, "option_name", ""))
    if named and named not in known:
        unknown = [word for word in arguments if word.startswith(named) and word not in known]
        return unknown[0].split("=")[0] if unknown else named
    dashed = [word.split("=")[0] for word in arguments if re.fullmatch(r"-[a-z]{2,}(=.*)?", word)]
    return next((option for option in dashed if option not in known), "")


def _subcommand_names(context: Any, message: str) -> tuple[list[str], str]:
    match = re.search(r"No such command '([^']*)'", message)
    names = list(getattr(context.command, "commands", {})) if context else []
    return names, match.group(1) if match else ""
