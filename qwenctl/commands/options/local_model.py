"""Finds the local models that a name on the command line means."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from qwenctl.commands.options.shell_completion import complete_local
from qwenctl.errors import ExitCode, QwenctlError, command_line

if TYPE_CHECKING:
    from qwenctl.hub.local.installed import InstalledModel

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete_local, help="A local model, as listed by `qwenctl ls`."),
]
AnyName = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=complete_local, help="A local model; default: all of them.")
]


def find_installed(text: str, *, or_file: bool = False) -> list[InstalledModel]:
    """The local models that `text` means (a name, file stem or path; "": all). Raises QwenctlError for none.

    With `or_file`, any GGUF file of a Qwen3.5 model counts, even if it was neither pulled nor made by this program.
    """
    from qwenctl.hub.local.installed import find_installed_models, model_at
    from qwenctl.hub.local.resolve_model import expand_path, find_matches, wrong_revision_error

    models = find_installed_models()
    if not text:
        return models
    found = find_matches(text, models)
    path = expand_path(text)
    if not found and path.exists():
        model = model_at(path)
        if or_file and model is not None:
            return [model]
        what = "was neither pulled nor made here" if model else "is not a Qwen3.5 model"
        hint = "remove it yourself" if model else "GGUF files of Qwen3.5 models, or names from `qwenctl ls`"
        raise QwenctlError(f"{text} {what}", hint, ExitCode.NO_INPUT)
    if not found and (error := wrong_revision_error(text, models)) is not None:
        raise error
    if not found:
        names = ", ".join(dict.fromkeys(model.name for model in models))
        hint = f"available: {names}" if names else "no local models: `qwenctl pull NAME` downloads one"
        raise QwenctlError(f"{text} is not on this machine", hint, ExitCode.NO_INPUT)
    return found


def find_one_installed(text: str) -> InstalledModel:
    """The only local model that `text` means. Raises QwenctlError if there is none, or more than one."""
    found = find_installed(text, or_file=True)
    if len(found) > 1:
        counts = Counter(name for model in found for name in (model.name, model.qualified_name))
        # In two caches, even the same commit.
        names = [
            next((name for name in (model.name, model.qualified_name) if counts[name] == 1), str(model.path))
            for model in found
        ]
        hint = command_line("show", names[-1])
        raise QwenctlError(f"{text} matches {len(found)} models: {', '.join(names)}", hint)
    return found[0]
