"""What a name comes to: the repository that is asked, and the files or the recipe that were meant.

A parsed name and the wishes of the command line come in. Where no quantization is named the target is open, and is
closed by a choice among what the repository offers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quantize.recipe.recipes import find_recipe
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.local.installed import CHECKPOINT
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.repository.model_name import ModelName, quant_key
from qwenctl.hub.repository.quantizations import choose_quant, find_quants, find_vision
from qwenctl.hub.streaming.header_only import checkpoint_files, is_checkpoint


@dataclass(frozen=True)
class PullRequest:
    """What was asked for beside the name. `recipe` is a type to quantize to, `source` the checkpoint as it is."""

    recipe: str = ""
    source: bool = False
    vision: bool = True

    @property
    def label(self) -> str:
        """What the model would be called here; "" if the name alone says it."""
        return CHECKPOINT if self.source else self.recipe


@dataclass(frozen=True)
class ResolvedTarget:
    """A repository, and of it these files, or this recipe to be quantized to; both empty as long as it is open."""

    listing: Listing
    label: str = ""
    files: tuple[RemoteFile, ...] = ()
    recipe: str = ""

    @property
    def needs_choice(self) -> bool:
        """Whether a quantization is to be chosen."""
        return not self.files and not self.recipe


def find_target(asked: ModelName, wish: PullRequest, describe: Callable[[str], Listing]) -> ResolvedTarget:
    """The target of a name. Raises QwenctlError."""
    wish = replace(wish, source=wish.source or quant_key(asked.quant) == CHECKPOINT)
    refused: QwenctlError | None = None
    for repository in _repositories(asked, wish):
        try:
            return _decide(describe(repository), asked.quant, wish)
        except QwenctlError as error:
            if error.code != ExitCode.NO_INPUT:
                raise
            refused = refused or error
    raise refused or AssertionError("a name without repositories")


def select_quant(target: ResolvedTarget, label: str, wish: PullRequest) -> ResolvedTarget:
    """The target with the quantization that was chosen."""
    return _decide(target.listing, label, wish)


def _repositories(asked: ModelName, wish: PullRequest) -> tuple[str, ...]:
    """The repositories to ask, in order."""
    if asked.repository or asked.family is None:
        return (asked.repository,)
    needs_source = wish.recipe or wish.source or not asked.family.gguf
    return (asked.family.source,) if needs_source else asked.family.gguf


def _decide(listing: Listing, label: str, wish: PullRequest) -> ResolvedTarget:
    if wish.source:
        return ResolvedTarget(listing, CHECKPOINT, tuple(checkpoint_files(listing)))
    if wish.recipe:
        return ResolvedTarget(listing, recipe=find_recipe(wish.recipe).name)
    if not label:
        return ResolvedTarget(listing)
    if is_checkpoint(listing) and not find_quants(listing.files):
        return ResolvedTarget(listing, recipe=find_recipe(label).name)
    quant = choose_quant(listing, label)
    vision = find_vision(listing.files) if wish.vision else None
    return ResolvedTarget(listing, quant.label, (*quant.files, *([vision] if vision else [])))
