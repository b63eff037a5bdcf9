"""What is wrong with a command line, in the program's own words: typer's usage errors with the nearest right name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.rules import nearest


def explain_usage(error: Exception, arguments: Sequence[str]) -> QwenctlError | None:
    """`error` as a failure with a hint; None if it is not about the command line `arguments`."""
    if not isinstance(error, typer.TyperException):
        return None
    context: Any = getattr(error, "ctx", None)
    options = _option_names(context)
    path = context.command_path if context else " ".join(["qwenctl", *(one for one in arguments[:1] if one[:1] != "-")])
    message = error.format_message()
    wrong = _unknown_option(error, arguments, options) if context else ""
    if wrong:
        message = f"no such option: {wrong}"
    known, word = (options, wrong) if wrong else _commands(context, message)
    near = nearest(word, known)
    hint = f"did you mean {near}? `{path} --help` lists all" if near else f"{path} --help"
    hint = getattr(error.__cause__, "hint", "") or hint  # of what a parser of this program has raised
    return QwenctlError(normalize_message(message), hint, ExitCode.USAGE)


def normalize_message(message: str) -> str:
    """typer's `message` as this program says it: on one line, in lower case, without suggestions."""
    line = " ".join(message.split()).removesuffix(".").replace("Value error, ", "")
    line = re.sub(r"\s*\(Possible options?: [^)]*\)|\. Did you mean .*$", "", line)
    return line[:1].lower() + line[1:]


def _option_names(context: Any) -> list[str]:
    parameters = context.command.get_params(context) if context else []
    return [name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("-")]


def _unknown_option(error: Exception, arguments: Sequence[str], known: Sequence[str]) -> str:
    """The option that does not exist, if that is the mistake.

    Of `-ngk 5` typer says that `-n` has the bad value "gk"; that is not what the person meant.
    """
    named = str(getattr(error, "option_name", ""))
    if named and named not in known:
        unknown = [one for one in arguments if one.startswith(named) and one not in known]
        return unknown[0].split("=")[0] if unknown else named
    dashed = [one.split("=")[0] for one in arguments if re.fullmatch(r"-[a-z]{2,}(=.*)?", one)]
    return next((one for one in dashed if one not in known), "")


def _commands(context: Any, message: str) -> tuple[list[str], str]:
    found = re.search(r"No such command '([^']*)'", message)
    names = list(getattr(context.command, "commands", {})) if context else []
    return names, found.group(1) if found else ""
