"""Finds the local models that a name on the command line means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from qwenctl.commands.options.shell_completion import complete_local
from qwenctl.errors import ExitCode, QwenctlError, command_line
from qwenctl.files.pasted_paths import typed_path

if TYPE_CHECKING:
    from pathlib import Path

    from qwenctl.hub.local.installed import InstalledModel

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete_local, help="A local model, as listed by `qwenctl ls`."),
]
AnyName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=complete_local, help="A local model, a GGUF file or a folder; default: all."
    ),
]


def find_installed(text: str, *, or_file: bool = False, damaged: bool = False) -> list[InstalledModel]:
    """The local models that `text` means (a name, file stem or path; "": all). Raises QwenctlError for none.

    With `or_file`, any GGUF file of a Qwen3.5 model counts, even if it was neither pulled nor made by this program, and
    a folder means the models in it. With `damaged`, models count that are known here though their header is not one.
    """
    from qwenctl.hub.local.installed import find_installed_models, model_at
    from qwenctl.hub.local.resolve_model import expand_path, find_matches, wrong_revision_error

    text = typed_path(text)
    models = find_installed_models(damaged=damaged)
    if not text:
        return models
    found = find_matches(text, models)
    path = expand_path(text)
    if not found and path.exists():
        model = model_at(path)
        if or_file and (others := _models_at(path, model, models)):
            return others
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


def _models_at(path: Path, model: InstalledModel | None, installed: Sequence[InstalledModel]) -> list[InstalledModel]:
    """The models at `path`: the `model` in that file, the one that a lock file lists there, or those in a folder."""
    from qwenctl.hub.local.installed import listed_models, models_in

    if path.is_dir():
        return models_in(path, installed)
    listed = [one for one in listed_models(path.parent) if path.absolute() in one.files]
    return listed[:1] or [one for one in (model,) if one is not None]


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
