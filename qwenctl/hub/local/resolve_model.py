"""Resolve what a user gives as a model: a path, a link to the Hub, or the name of an installed model.

Text comes in; the installed models that it means go out, or a path to load. All commands use these functions, so that a
name means the same to each of them: what `qwenctl ls` lists, what another command prints, a file's path or stem,
OWNER/NAME[@REVISION][:QUANT], a short name, and the address in a browser.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenctl.errors import ExitCode, QwenctlError, command_line, quote
from qwenctl.hub.repository.catalog import find_family, is_same_generation
from qwenctl.hub.repository.model_name import ModelName, is_link, parse_name, quant_key

if TYPE_CHECKING:
    from qwenctl.hub.local.installed import InstalledModel


def resolve_model_path(text: str) -> Path:
    """The path of the model that `text` names; whether it exists and what it contains is not checked.

    Text that can only be a path is returned at once, without searching the caches. Raises QwenctlError if no installed
    model has that name, or if several have.
    """
    path = expand_path(text)
    if path.exists() or (not is_link(text) and (path.suffix == ".gguf" or text.startswith(("/", ".", "~")))):
        return path
    from qwenctl.hub.local.installed import CHECKPOINT, find_installed_models

    models = [model for model in find_installed_models() if model.quant != CHECKPOINT]
    matches = find_matches(text, models)
    complete = [model for model in matches if not model.missing_parts]
    if not complete:
        if not matches and _parse(text) is None:
            return path
        raise _not_installed_error(text, matches, models)
    # Several commits of one model have one name, and the default one is last: see `find_installed_models`.
    names = dict.fromkeys(model.name if model.cache else model.qualified_name for model in complete)
    if len(names) > 1:
        hint = f"-m {quote(next(iter(names)))}"
        raise QwenctlError(f"{len(names)} local models match {text}: {', '.join(names)}", hint)
    return complete[-1].path


def expand_path(text: str) -> Path:
    """The path that `text` is, with ~ for the home folder where that is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no home folder
        return Path(text)


def find_matches(text: str, models: Sequence[InstalledModel]) -> list[InstalledModel]:
    """The models among `models` that `text` means; the first of these rules that finds any decides.

    A name as listed, or a file's path or stem; the same file under another path; a name in any other spelling.
    """
    path = os.path.abspath(expand_path(text))
    listed = [
        model
        for model in models
        if text in (model.name, model.qualified_name, model.path.stem)
        or path in map(str, (model.path.absolute(), *(file.absolute() for file in model.files)))
    ]
    if listed:
        return listed
    if os.path.exists(path):
        real = os.path.realpath(path)
        if same := [model for model in models if os.path.realpath(model.path) == real]:
            return same
    name = _parse(text)
    if name is not None and (found := [model for model in models if _matches(name, model)]):
        return found
    base, _, quant = text.strip().partition(":")
    return [
        model
        for model in models
        if model.repository.casefold() == base.casefold() and quant_key(quant) in ("", quant_key(model.quant))
    ]


def wrong_revision_error(asked: str | ModelName, models: Sequence[InstalledModel]) -> QwenctlError | None:
    """The error for a name whose model is here, but not at the revision in the name; None if that is not so."""
    name = _parse(asked) if isinstance(asked, str) else asked
    others = filter_by_name(replace(name, revision=""), models) if name is not None and name.revision else []
    if name is None or not others:
        return None
    names = ", ".join(dict.fromkeys(model.qualified_name for model in others))
    message = f"{others[0].name} is not here at revision {name.revision}"
    return QwenctlError(message, f"available: {names}", ExitCode.NO_INPUT)


def filter_by_name(name: ModelName, models: Sequence[InstalledModel]) -> list[InstalledModel]:
    """The models that `name` can refer to."""
    return [model for model in models if _matches(name, model)]


def _parse(text: str) -> ModelName | None:
    """The model name that `text` is; None if it is none."""
    try:
        return parse_name(text)
    except QwenctlError:
        return None


def _matches(name: ModelName, model: InstalledModel) -> bool:
    """Whether a model has the quantization, revision, file and repository (or family) in `name`, where given."""
    if name.quant and quant_key(name.quant) != quant_key(model.quant):
        return False
    if name.revision and not _is_at_revision(model, name.revision):
        return False
    if name.file and not _has_file(model, name.file):
        return False
    if name.repository:
        return name.repository.casefold() == model.repository.casefold()
    return name.family is not None and name.family == find_family(model.repository)


def _has_file(model: InstalledModel, path: str) -> bool:
    """Whether the model's weights are in the file of the repository at `path`, or in the folder."""
    if model.cache is None:
        return False
    own = model.path.relative_to(model.cache.snapshot_folder(model.commit)).as_posix()
    names = [file.relative_to(model.cache.snapshot_folder(model.commit)).as_posix() for file in model.files]
    return path in names or own.startswith(f"{path.rstrip('/')}/")


def _is_at_revision(model: InstalledModel, revision: str) -> bool:
    """Whether a model is at this commit, or at the commit of this branch or tag at the last pull."""
    branch = model.cache.resolve_revision(revision) if model.cache else ""
    return bool(model.commit) and (model.commit == branch or model.commit.startswith(revision))


def _not_installed_error(
    text: str, matches: Sequence[InstalledModel], models: Sequence[InstalledModel]
) -> QwenctlError:
    """The error for a name without a complete model; `matches` are incomplete ones."""
    if matches:
        parts = f"{matches[0].missing_parts} of its parts"
        return QwenctlError(f"{text} lacks {parts}", command_line("pull", matches[0].name), ExitCode.NO_INPUT)
    if (error := wrong_revision_error(text, models)) is not None:
        return error
    names = [model.name for model in models if is_same_generation(text, model.name)]
    near = [name for name in difflib.get_close_matches(text, names, n=1) if name.casefold() != text.casefold()]
    pull = command_line("pull", text)
    hint = f"`{pull}`, or use `-m {quote(near[0])}`" if near else pull
    return QwenctlError(f"{text} is not on this machine", hint, ExitCode.NO_INPUT)
