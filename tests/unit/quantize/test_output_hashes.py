"""The hashes of files that are being written, whatever the order in which their tensors come."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.output.output_hashes import hash_output
from quantize.plan import ConversionPlan, QuantizeOptions, make_plan


@pytest.fixture(scope="module")
def plan(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> ConversionPlan:
    return make_plan(toy, tmp_path_factory.mktemp("made") / "out.gguf", QuantizeOptions("Q8_0"))


@settings(max_examples=10, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_hashes_are_those_of_the_files_in_the_end(plan: ConversionPlan, chance: Random) -> None:
    """Tensors get their bytes in any order, in this run or an earlier one; before, the files have other ones."""
    tensors = [(number, tensor) for number, file in enumerate(plan.files) for tensor in range(len(file.tensors))]
    chance.shuffle(tensors)
    earlier = frozenset(tensors[: chance.randint(0, len(tensors))])
    files = [os.memfd_create(str(number)) for number in range(len(plan.files))]
    try:
        for descriptor, file in zip(files, plan.files, strict=True):
            os.ftruncate(descriptor, file.n_bytes)
            os.pwrite(descriptor, file.header, 0)
        for key in earlier:
            write(plan, files, key)
        with hash_output(plan.files, files, earlier) as hashes:
            for key in tensors:
                if key not in earlier:
                    assert hashes.wait(0) is None
                    write(plan, files, key)
                    hashes.add(key)
            found = hashes.wait(30)
        contents = (os.pread(descriptor, file.n_bytes, 0) for descriptor, file in zip(files, plan.files, strict=True))
        assert found == tuple(hashlib.sha256(content).hexdigest() for content in contents)
    finally:
        for descriptor in files:
            os.close(descriptor)


def write(plan: ConversionPlan, files: list[int], key: tuple[int, int]) -> None:
    """Fill a tensor with bytes that no other has."""
    tensor = plan.files[key[0]].tensors[key[1]]
    block = hashlib.sha256(repr(key).encode()).digest()
    os.pwrite(files[key[0]], (block * (tensor.n_bytes // 32 + 1))[: tensor.n_bytes], tensor.offset)


def test_file_that_ends_early_is_an_error(plan: ConversionPlan, tmp_path: Path) -> None:
    descriptor = os.memfd_create("short")
    try:
        with hash_output(plan.files[:1], [descriptor], ()) as hashes, pytest.raises(OSError, match="ends at byte 0"):
            hashes.wait(30)
    finally:
        os.close(descriptor)


def test_stop_returns_while_tensors_are_missing(plan: ConversionPlan) -> None:
    descriptor = os.memfd_create("never")
    try:
        os.ftruncate(descriptor, plan.files[0].n_bytes)
        with hash_output(plan.files[:1], [descriptor], ()) as hashes:
            assert hashes.wait(0.01) is None
    finally:
        os.close(descriptor)
