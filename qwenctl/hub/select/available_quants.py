"""What a repository offers: its quantizations, or for a checkpoint those that could be made of it, with their sizes.

A listing comes in. The start of one GGUF header, or the headers of all shards, are fetched; nothing stays on the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import BadGGUF
from quantize.gguf_header import START_BYTES, parse_leading_metadata
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.downloader import DownloadOptions
from qwenctl.hub.download.hub_api import read_range, resolve_url
from qwenctl.hub.download.retry import make_retry_policy
from qwenctl.hub.repository.listing import Listing
from qwenctl.hub.repository.quantizations import Quant, find_quants
from qwenctl.hub.select.fit import PullCandidate
from qwenctl.hub.streaming.header_only import fetch_headers_only, is_checkpoint
from qwenctl.models.context_memory import ContextMemory, of_config, of_metadata

RECIPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
# Of the published models the one whose context takes the most memory, 27B.
_UNKNOWN = ContextMemory(65_536, 157_000_000, 0)


@dataclass(frozen=True)
class AvailableQuants:
    """The candidates, smallest first; `made` says whether they are made here. `weights` is 0 where nobody tells."""

    candidates: tuple[PullCandidate, ...]
    context: ContextMemory
    weights: int
    made: bool

    def bits_per_weight(self, candidate: PullCandidate) -> float:
        """Bits that a weight of the candidate takes; 0 where it is not known."""
        return 8 * candidate.n_bytes / self.weights if self.weights else 0.0


def find_offers(
    listing: Listing, settings: DownloadOptions, spool_bytes: int, tell: Callable[[str], None]
) -> AvailableQuants:
    """What the repository offers. Raises QwenctlError."""
    quants = [quant for quant in find_quants(listing.files) if not quant.lacking]
    if quants:
        context = _context(listing, quants[0], settings, tell)
        return AvailableQuants(
            tuple(PullCandidate(one.label, one.n_bytes, one.n_bytes) for one in quants),
            context,
            listing.parameters,
            made=False,
        )
    if is_checkpoint(listing):
        return _recipes(listing, settings, spool_bytes, tell)
    raise QwenctlError(
        f"{listing.repository} has neither GGUF files nor a checkpoint",
        f"https://hf.co/{listing.repository}",
        ExitCode.NO_INPUT,
    )


def _context(listing: Listing, quant: Quant, settings: DownloadOptions, tell: Callable[[str], None]) -> ContextMemory:
    """The memory of a context, from the start of a model's first file."""
    file = quant.files[0]
    start = make_retry_policy(settings.patience, tell).call(
        lambda: read_range(resolve_url(listing, file), 0, min(START_BYTES, file.size))
    )
    try:
        return of_metadata(parse_leading_metadata(file.path, start)) or _UNKNOWN
    except BadGGUF:
        return _UNKNOWN


def _recipes(
    listing: Listing, settings: DownloadOptions, spool_bytes: int, tell: Callable[[str], None]
) -> AvailableQuants:
    """What could be made of a checkpoint."""
    from quantize.plan import recipe_sizes  # with numpy, which a listing of GGUF files does without

    with tempfile.TemporaryDirectory(prefix="qwenctl-") as folder:
        skeleton = fetch_headers_only(listing, Path(folder), settings, tell, lambda _: None)
        sizes = recipe_sizes(skeleton.folder, RECIPES)
    spool = min(spool_bytes, sum(file.size for file in skeleton.shards.values()))
    made = [PullCandidate(label, n_bytes, n_bytes + spool) for label, n_bytes in sizes.n_bytes.items()]
    ordered = tuple(sorted(made, key=lambda one: one.n_bytes))
    return AvailableQuants(ordered, of_config(sizes.config), sizes.weights, made=True)
