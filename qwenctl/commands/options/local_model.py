"""Finds the local models that a name on the command line means."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from qwenctl.commands.options.shell_completion import complete_local
from qwenctl.errors import ExitCode, QwenctlError

if TYPE_CHECKING:
    from qwenctl.hub.local.installed import InstalledModel

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete_local, help="A local model, as listed by `qwenctl ls`."),
]
AnyName = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=complete_local, help="A local model; default: all of them.")
]


def find_installed(text: str) -> list[InstalledModel]:
    """The local models that `text` means (a name, file stem or path; "": all). Raises QwenctlError for none."""
    from qwenctl.hub.local.installed import filter_by_name, find_installed_models
    from qwenctl.hub.repository.model_name import parse_name

    models = find_installed_models()
    if not text:
        return models
    by_file = [model for model in models if text in (model.path.stem, str(model.path), model.name)]
    found = by_file
    if not found:
        with suppress(QwenctlError):  # not a valid name: the list of local models is the better hint
            found = filter_by_name(parse_name(text), models)
    if not found:
        names = ", ".join(dict.fromkeys(model.name for model in models))
        hint = f"available: {names}" if names else "`qwenctl ls` lists local models"
        raise QwenctlError(f"{text} is not on this machine", hint, ExitCode.NO_INPUT)
    return found


def find_one_installed(text: str) -> InstalledModel:
    """The only local model that `text` means. Raises QwenctlError if there is none, or more than one."""
    found = find_installed(text)
    if len(found) > 1:
        counts = Counter(model.name for model in found)
        names = [model.name if counts[model.name] == 1 else model.qualified_name for model in found]
        raise QwenctlError(f"{text} matches {len(found)} models: {', '.join(names)}", f"qwenctl show {names[-1]}")
    return found[0]
