"""Resolve a model name to a repository, and to the files or the recipe that are meant.

A parsed name and the options of the command line come in, a `ResolvedTarget` goes out. If no quantization is named, the
target needs a choice among what the repository offers. How a listing is fetched is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quantize.recipe.recipes import find_recipe
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.installed import CHECKPOINT
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.repository.model_name import ModelName, quant_key
from qwenctl.hub.repository.quantizations import choose_file, choose_quant, find_quants, find_vision
from qwenctl.hub.streaming.header_only import checkpoint_files, is_checkpoint


@dataclass(frozen=True)
class PullRequest:
    """What the user requested besides the name: a `recipe` to quantize to, or `source`, the checkpoint as published."""

    recipe: str = ""
    source: bool = False
    vision: bool = True

    @property
    def label(self) -> str:
        """The label of the installed model; "" if the name alone determines it."""
        return CHECKPOINT if self.source else self.recipe


@dataclass(frozen=True)
class ResolvedTarget:
    """A repository with the files to download, or a recipe to quantize to; both are empty if it needs a choice."""

    listing: Listing
    label: str = ""
    files: tuple[RemoteFile, ...] = ()
    recipe: str = ""

    @property
    def needs_choice(self) -> bool:
        """Whether a quantization must still be chosen."""
        return not self.files and not self.recipe


def resolve_target(name: ModelName, request: PullRequest, describe: Callable[[str], Listing]) -> ResolvedTarget:
    """Resolve a name; `describe` fetches the listing of a repository.

    The repositories of a short name are tried in order until one has what is requested; if all of them are gone, the
    checkpoints to quantize. Raises QwenctlError; if none has it, the error of the first.
    """
    request = replace(request, source=request.source or quant_key(name.quant) == CHECKPOINT)
    errors: list[QwenctlError] = []
    listings: list[Listing] = []
    preferred = _candidate_repositories(name, request)
    fallbacks = [] if name.repository or name.family is None else [name.family.source, name.family.fp8]
    for repository in dict.fromkeys([*preferred, *filter(None, fallbacks)]):
        if repository not in preferred and listings:  # a repository is there, but lacks what is requested
            break
        try:
            listings.append(describe(repository))
            return _resolve(listings[-1], name.quant, request, name.file)
        except QwenctlError as error:
            # Only what this repository lacks, or does not show to this user, is a reason to try the next one.
            if error.code not in (ExitCode.NO_INPUT, ExitCode.NO_PERMISSION):
                raise
            errors.append(error)
    raise errors[0] if errors else AssertionError("a name without repositories")


def select_quant(target: ResolvedTarget, label: str, request: PullRequest) -> ResolvedTarget:
    """Resolve a target that needs a choice with the chosen `label`. Raises QwenctlError."""
    return _resolve(target.listing, label, request)


def _candidate_repositories(name: ModelName, request: PullRequest) -> tuple[str, ...]:
    """The repositories to try, in order."""
    if name.repository or name.family is None:
        return (name.repository,)
    # Recipes and the checkpoint itself need the source repository; otherwise ready-made GGUF files are preferred.
    needs_source = request.recipe or request.source or not name.family.gguf
    return (name.family.source,) if needs_source else name.family.gguf


def _resolve(listing: Listing, label: str, request: PullRequest, file: str = "") -> ResolvedTarget:
    """Decide what `label` (or the path of a `file`) and `request` mean in one repository. Raises QwenctlError."""
    if request.source:
        return ResolvedTarget(listing, CHECKPOINT, tuple(checkpoint_files(listing)))
    if request.recipe:
        return ResolvedTarget(listing, recipe=find_recipe(request.recipe).name)
    if not label and not file:
        return ResolvedTarget(listing)
    # For a checkpoint without GGUF files, a label is a recipe: NAME:Q4_K_M quantizes it.
    if label and is_checkpoint(listing) and not find_quants(listing.files):
        return ResolvedTarget(listing, recipe=find_recipe(label).name)
    quant = choose_quant(listing, label) if label else choose_file(listing, file)
    vision = find_vision(listing.files) if request.vision else None
    return ResolvedTarget(listing, quant.label, (*quant.files, *([vision] if vision else [])))
