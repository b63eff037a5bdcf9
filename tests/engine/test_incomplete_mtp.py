"""Models whose header promises an MTP block that is not all in the file are loaded without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.gguf_header import read_header
from qwenctl.models.gguf_check import split_files
from qwenctl.placement.tensor_inventory import from_gguf
from qwenctl.placement.trial_load import compute_bytes
from qwenctl.protocol.load import LoadParams
from tests.support.gguf_files import converted, rewritten
from tests.support.loaded_model import loaded
from tests.support.own_process import late
from tests.support.variants import VARIANTS

RequestError = late("qwenctl.engine.request_errors:RequestError")
LOSSES: dict[str, Callable[[str], bool]] = {
    "whole block": lambda name: name.startswith("blk.4."),
    "draft head": lambda name: ".nextn." in name,
    "experts": lambda name: name.startswith("blk.4.ffn_") and "_exps" in name,
    "attention": lambda name: name.startswith("blk.4.attn_"),
    "queries": lambda name: name == "blk.4.attn_q.weight",
}
SETTINGS = LoadParams(context_tokens=256, threads=1, draft="auto")


def check_loads(path: Path, settings: LoadParams = SETTINGS) -> None:
    """Assert that the model at `path` is loaded, counts what is in its files, and cannot draft with an MTP block."""
    tensors = [tensor for file in split_files(path) for tensor in read_header(file).tensors]
    model = loaded(path, settings)
    assert model.loaded.size_bytes == sum(tensor.n_bytes for tensor in tensors)
    with pytest.raises(RequestError.value(), match="no draft head"):
        loaded(path, replace(settings, draft="mtp"))


@pytest.mark.own_process
@pytest.mark.parametrize("loss", LOSSES)
def test_model_that_lacks_some_of_its_mtp_block_is_loaded(toy_gguf: Path, tmp_path: Path, loss: str) -> None:
    path = rewritten(toy_gguf, tmp_path / "x.gguf", keep=lambda name: not LOSSES[loss](name))
    check_loads(path)
    inventory = from_gguf(path)
    assert not inventory.has_mtp
    assert inventory.shape.blocks == 5


@pytest.mark.own_process
@pytest.mark.parametrize("load_mode", ["mmap", "none"])
def test_model_of_several_files_is_loaded_without_its_mtp_block(toy: Path, tmp_path: Path, load_mode: str) -> None:
    whole = converted(toy, tmp_path / "whole.gguf", vision=False, split_bytes=4_000_000)
    (tmp_path / "x").mkdir()
    paths = [
        rewritten(file.path, tmp_path / "x" / file.path.name, keep=lambda name: not name.startswith("blk.4."))
        for file in whole.files
    ]
    assert len(paths) > 2
    check_loads(paths[0], replace(SETTINGS, load_mode=load_mode))  # type: ignore[arg-type] # one of its values


@pytest.mark.own_process
@pytest.mark.parametrize("variant", ["dense", "dense, odd width", "eight query heads a KV head"])
def test_other_shapes_are_loaded_without_their_mtp_block(tmp_path: Path, variant: str) -> None:
    made = VARIANTS[variant]
    whole = converted(made.make(tmp_path / "model"), tmp_path / "whole.gguf", vision=False).files[0].path
    number = made.model.layers
    path = rewritten(whole, tmp_path / "x.gguf", keep=lambda name: not name.startswith(f"blk.{number}."))
    assert len(from_gguf(path).tensors) < len(from_gguf(whole).tensors)
    check_loads(path)


def test_trial_load_measures_the_model_without_its_mtp_block(toy_gguf: Path, tmp_path: Path) -> None:
    path = rewritten(toy_gguf, tmp_path / "x.gguf", keep=lambda name: not name.startswith("blk.4."))
    measured = compute_bytes(path, SETTINGS)
    assert measured == compute_bytes(toy_gguf, replace(SETTINGS, draft="ngram"))
    assert measured is not None
