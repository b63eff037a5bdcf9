"""The bytes that a conversion needs while its checkpoint downloads, compared with downloading all of it first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quantize.plan import QuantizeOptions, make_plan
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.streaming.conversion import StreamingConversion
from qwenctl.hub.streaming.header_only import HeaderOnlyCheckpoint


@pytest.fixture
def conversion(toy: Path, tmp_path: Path) -> StreamingConversion:
    """The toy, as if its only shard of 1000 bytes and one that is not needed were on the Hub."""
    plan = make_plan(toy, tmp_path / "out.gguf", QuantizeOptions("Q8_0"))
    [needed] = plan.source_files()
    shards = {needed: RemoteFile("model.safetensors", 1000, ""), tmp_path / "other": RemoteFile("other", 5000, "")}
    checkpoint = HeaderOnlyCheckpoint(toy, shards)
    return StreamingConversion(
        Listing("owner/name", "main", "c" * 40, ()), plan, QuantizeOptions("Q8_0"), checkpoint, tmp_path, 10**9
    )


def test_source_is_only_the_shards_that_the_plan_needs(conversion: StreamingConversion) -> None:
    assert conversion.source_bytes == 1000


@pytest.mark.parametrize(("limit", "n_bytes"), [(400, 400), (1000, 1000), (10**9, 1000)])
def test_spool_is_no_larger_than_its_limit_or_its_source(
    limit: int, n_bytes: int, conversion: StreamingConversion
) -> None:
    assert replace(conversion, spool_limit=limit).spool_bytes == n_bytes


def test_full_download_needs_checkpoint_bf16_file_and_output(conversion: StreamingConversion) -> None:
    weights = sum(tensor.tensor.elements for file in conversion.plan.text_files for tensor in file.tensors)
    assert conversion.full_download_bytes == 1000 + 2 * weights + conversion.plan.n_bytes
