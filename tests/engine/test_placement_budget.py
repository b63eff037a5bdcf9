"""Memory estimates for other machines match the buffer sizes that llama.cpp reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quantize.plan import QuantizeOptions
from quantize.plan import make_plan as make_conversion
from qwenctl.placement.context_budget import ContextParams, cache_bytes, device_compute, ram_compute, state_bytes
from qwenctl.placement.tensor_inventory import TensorInventory, from_gguf
from qwenctl.placement.trial_load import compute_bytes
from qwenctl.protocol.load import LoadParams
from qwenctl.protocol.placement import CPU, Placement
from tests.support.checkpoints import make_sparse
from tests.support.qwen35_layout import PUBLISHED
from tests.support.rpc_server import rpc_server

EXPERTS = ((r"_exps\.weight$", CPU),)
# Estimates err on the high side: a plan with too little memory does not load.
LEAST, MOST = 0.99, 1.8


@pytest.fixture(scope="module")
def devices() -> Iterator[tuple[str, str]]:
    with rpc_server(400 << 30) as first, rpc_server(400 << 30) as second:
        yield first, second


@pytest.fixture(scope="module")
def header(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TensorInventory:
    """A sparse GGUF file of a published model: the header is real, the weights are a hole."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = make_sparse(folder / "checkpoint", PUBLISHED[request.param])
    options = QuantizeOptions("Q4_K_M", vision=False)
    [file] = make_conversion(checkpoint, folder / "model.gguf", options).text_files
    with file.path.open("wb") as header_only:
        header_only.write(file.header)
        header_only.truncate(file.n_bytes)
    return from_gguf(file.path)


def measure_buffers(model: TensorInventory, settings: LoadParams) -> dict[str, int]:
    found = compute_bytes(Path(model.path), settings)
    assert found is not None
    return dict(found)


@pytest.mark.parametrize(
    ("header", "tokens", "micro_batch"),
    [("35B", 4096, 512), ("35B", 65_536, 2048), ("0.8B", 65_536, 2048)],
    indirect=["header"],
)
def test_compute_buffer_estimates_are_within_bounds(
    header: TensorInventory, devices: tuple[str, str], tokens: int, micro_batch: int
) -> None:
    context = ContextParams(tokens, 1, "f16", "f16", micro_batch)
    shape, has_experts = header.shape, header.shape.experts > 0

    def load(names: tuple[str, ...], overrides: tuple[tuple[str, str], ...]) -> dict[str, int]:
        placement = Placement(names, (1.0,) * len(names) if len(names) > 1 else (), overrides, devices)
        return measure_buffers(header, LoadParams(tokens, 1, 2048, micro_batch, placement=placement))

    pairs = []
    apart = load(("RPC0",), EXPERTS)
    pairs += [(device_compute(shape, context, mixed=True), apart["RPC0"])]
    pairs += [(ram_compute(shape, context, experts=has_experts, layers=False), apart[CPU])]
    together = load(("RPC0", "RPC1"), ())
    buffer = device_compute(shape, context, mixed=False, pipelined=True)
    pairs += [(buffer, together["RPC0"]), (buffer, together["RPC1"])]
    pairs += [(ram_compute(shape, context, experts=False, layers=False, pipelined=True), together[CPU])]
    alone = load((CPU,), ())
    pairs += [(ram_compute(shape, context, experts=has_experts, layers=True), alone[CPU])]
    ratios = [estimate / actual for estimate, actual in pairs]
    assert min(ratios) >= LEAST
    assert max(ratios) <= MOST


@pytest.mark.parametrize("header", ["35B", "0.8B"], indirect=True)
def test_cache_and_state_sizes_match_the_published_models(header: TensorInventory) -> None:
    shape = header.shape
    token_bytes, state_mib = {2048: (20_480, 62.8), 1024: (12_288, 19.3)}[shape.hidden]
    for kind, share in (("f16", 1.0), ("q8_0", 34 / 64)):
        context = ContextParams(32_768, 1, kind, kind, 512)
        assert len(shape.full_layers) * cache_bytes(shape, context) == token_bytes * share * 32_768
    states = (shape.layers - len(shape.full_layers)) * state_bytes(shape, ContextParams(32_768, 3, "f16", "f16", 512))
    assert states / (1 << 20) == pytest.approx(3 * state_mib, rel=0.01)
