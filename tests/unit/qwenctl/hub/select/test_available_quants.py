"""What a repository offers, as far as its listing alone decides it."""

from __future__ import annotations

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.hub.download.downloader import DownloadOptions
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.select.available_quants import AvailableQuants, find_available_quants
from qwenctl.hub.select.fit import PullCandidate
from qwenctl.models.context_memory import ContextMemory


def offering(weights: int) -> AvailableQuants:
    return AvailableQuants((), ContextMemory(1, 1, 1), weights, needs_conversion=False)


def test_bits_per_weight_are_bytes_over_weights_and_zero_if_unknown() -> None:
    candidate = PullCandidate("Q4_K_M", 600, 600)
    assert offering(1000).bits_per_weight(candidate) == pytest.approx(4.8)
    assert offering(0).bits_per_weight(candidate) == 0.0


@pytest.mark.parametrize(
    "names",
    [(), ("README.md",), ("config.json",), ("model.safetensors",), ("m-Q4_K_M-00001-of-00002.gguf",)],
)
def test_repository_without_complete_gguf_or_checkpoint_is_refused(names: tuple[str, ...]) -> None:
    files = tuple(RemoteFile(name, 10, "1" * 40) for name in names)
    with pytest.raises(QwenctlError, match="owner/name has neither GGUF files nor a checkpoint") as caught:
        find_available_quants(Listing("owner/name", "main", "c" * 40, files), DownloadOptions(), 0, lambda _: None)
    assert (caught.value.code, caught.value.hint) == (ExitCode.NO_INPUT, "https://hf.co/owner/name")
