"""An MTP block that a header promises and the file lacks: when it counts as incomplete, and the split in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.gguf_header import GGUFHeader, read_header
from qwenctl.models.gguf_check import check_model_file
from qwenctl.models.mtp_block import find_incomplete_mtp, read_incomplete_mtp, write_stand_in
from tests.support.gguf_files import rewritten

# Known to llama.cpp and looked up only if the block is used, or not needed at all.
OPTIONAL = ("blk.4.nextn.shared_head_norm.weight",)
LOOKED_UP_IF_USED = ("attn_q.", "attn_k.", "attn_v.", "ffn_gate_exps.", "ffn_up_exps.")


@pytest.fixture(scope="module")
def header(toy_gguf: Path) -> GGUFHeader:
    return read_header(toy_gguf)


def test_whole_block_and_no_block_are_not_incomplete(header: GGUFHeader, toy_gguf: Path) -> None:
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert find_incomplete_mtp(header.metadata, shapes) is None
    assert check_model_file(toy_gguf) == ()
    without = {**header.metadata, "qwen35moe.nextn_predict_layers": 0, "qwen35moe.block_count": 4}
    assert find_incomplete_mtp(without, {name: shapes[name] for name in shapes if "blk.4." not in name}) is None


@given(data=st.data())
def test_block_that_lacks_a_needed_tensor_is_incomplete_and_the_stand_in_has_it(
    header: GGUFHeader, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    block = sorted(name for name in shapes if name.startswith("blk.4."))
    dropped = data.draw(st.sets(st.sampled_from(block)))
    found = find_incomplete_mtp(header.metadata, {name: shapes[name] for name in shapes.keys() - dropped}, 3)
    assert (found is not None) == bool(dropped - set(OPTIONAL))
    if found is None:
        return
    looked_up = {name for name in dropped - set(OPTIONAL) if not any(part in name for part in LOOKED_UP_IF_USED)}
    assert found.missing == {name: shapes[name] for name in looked_up}
    assert (found.block, found.tensors) == (4, len(shapes) - len(dropped))
    path = tmp_path_factory.mktemp("stand-in") / "mtp.gguf"
    claimed = write_stand_in(path, found)
    made = read_header(path)
    assert {tensor.name: tensor.shape for tensor in made.tensors} == dict(found.missing)
    assert sum(tensor.n_bytes for tensor in made.tensors) == claimed
    assert made.metadata == {"general.architecture": "qwen35moe", "split.no": 3}
    assert path.stat().st_blocks * 512 < 1 << 16


@given(st.dictionaries(st.sampled_from(["block_count", "nextn_predict_layers"]), st.integers(-1, 1 << 40) | st.text()))
def test_hostile_numbers_of_blocks_are_no_incomplete_block(header: GGUFHeader, numbers: dict[str, int | str]) -> None:
    metadata = {**header.metadata, **{f"qwen35moe.{key}": value for key, value in numbers.items()}}
    find_incomplete_mtp(metadata, {tensor.name: tensor.shape for tensor in header.tensors})


def test_model_of_several_files_is_read_as_one(toy_gguf: Path, tmp_path: Path) -> None:
    names = [f"x-0000{number}-of-00002.gguf" for number in (1, 2)]
    first = rewritten(toy_gguf, tmp_path / names[0], keep=lambda name: not name.startswith(("blk.3.", "blk.4.")))
    second = rewritten(toy_gguf, tmp_path / names[1], keep=lambda name: name.startswith("blk.3."))
    found = read_incomplete_mtp([first, second])
    assert found is not None
    assert (found.files, found.block, len(found.missing)) == (2, 4, 14)
