"""List what a repository offers: its quantizations, or the recipes to which its checkpoint can be quantized.

A listing comes in; candidates with their sizes go out. For that, the start of one GGUF header or the headers of all
shards are downloaded; nothing stays on disk. Which candidate fits this machine is not known here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantize.errors import BadGGUF
from quantize.gguf_header import START_BYTES, Value, parse_leading_metadata
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.downloader import DownloadOptions
from qwenctl.hub.download.hub_api import read_range, resolve_url
from qwenctl.hub.download.retry import make_retry_policy
from qwenctl.hub.repository.listing import Listing
from qwenctl.hub.repository.quantizations import Quant, find_quants
from qwenctl.hub.select.fit import PullCandidate
from qwenctl.hub.streaming.header_only import fetch_headers_only, is_checkpoint
from qwenctl.models.context_memory import ContextMemory, context_memory_from_config, context_memory_from_metadata
from qwenctl.models.gguf_kind import is_doubtful, kind_from_metadata

# The recipes that are offered for a checkpoint, a selection that covers the range of sizes.
RECIPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
# The values of the published model whose context takes the most memory, the 27B.
_FALLBACK_CONTEXT = ContextMemory(65_536, 157_000_000, 0)


@dataclass(frozen=True)
class AvailableQuants:
    """The candidates, smallest first. `needs_conversion` means that they are quantized here.

    `weights` is the number of the model's weights, 0 if unknown.
    """

    candidates: tuple[PullCandidate, ...]
    context: ContextMemory
    weights: int
    needs_conversion: bool

    def bits_per_weight(self, candidate: PullCandidate) -> float:
        """Bits per weight of a candidate; 0 if unknown."""
        return 8 * candidate.n_bytes / self.weights if self.weights else 0.0


def find_available_quants(
    listing: Listing, options: DownloadOptions, spool_bytes: int, notify: Callable[[str], None]
) -> AvailableQuants:
    """Find the candidates of a repository.

    `spool_bytes` is the maximum size of the shard buffer, which a conversion needs on disk besides its output. Raises
    QwenctlError if the repository has neither GGUF files nor a checkpoint.
    """
    candidates: list[PullCandidate] = []
    context = _FALLBACK_CONTEXT
    for quant in (quant for quant in find_quants(listing.files) if not quant.missing_parts):
        # The header of the smallest model has the numbers; others are read only if their names leave doubts.
        if not candidates or is_doubtful(quant.files[0].path):
            metadata = _read_metadata(listing, quant, options, notify)
            if kind_from_metadata(metadata) not in (None, "model"):
                continue
            if not candidates:
                context = context_memory_from_metadata(metadata) or _FALLBACK_CONTEXT
        candidates.append(PullCandidate(quant.label, quant.n_bytes, quant.n_bytes))
    if candidates:
        return AvailableQuants(tuple(candidates), context, listing.parameters, needs_conversion=False)
    if is_checkpoint(listing):
        return _find_recipes(listing, options, spool_bytes, notify)
    raise QwenctlError(
        f"{listing.repository} has neither GGUF files nor a checkpoint",
        f"https://hf.co/{listing.repository}",
        ExitCode.NO_INPUT,
    )


def _read_metadata(
    listing: Listing, quant: Quant, options: DownloadOptions, notify: Callable[[str], None]
) -> dict[str, Value]:
    """The metadata at the start of a model's first file; empty if it cannot be parsed."""
    file = quant.files[0]
    data = make_retry_policy(options.patience, notify).call(
        lambda: read_range(resolve_url(listing, file), 0, min(START_BYTES, file.size))
    )
    try:
        return parse_leading_metadata(file.path, data)
    except BadGGUF:
        return {}


def _find_recipes(
    listing: Listing, options: DownloadOptions, spool_bytes: int, notify: Callable[[str], None]
) -> AvailableQuants:
    """List the recipes for a checkpoint, with the sizes of their outputs."""
    from quantize.plan import compute_recipe_sizes  # imports numpy, which GGUF listings do not need

    with tempfile.TemporaryDirectory(prefix="qwenctl-") as folder:
        checkpoint = fetch_headers_only(listing, Path(folder), options, notify, lambda _: None)
        sizes = compute_recipe_sizes(checkpoint.folder, RECIPES)
    buffer_bytes = min(spool_bytes, sum(file.size for file in checkpoint.shards.values()))
    candidates = [PullCandidate(label, n_bytes, n_bytes + buffer_bytes) for label, n_bytes in sizes.n_bytes.items()]
    ordered = tuple(sorted(candidates, key=lambda candidate: candidate.n_bytes))
    return AvailableQuants(ordered, context_memory_from_config(sizes.config), sizes.weights, needs_conversion=True)
