"""A system that writes less than it is given changes no byte of an output."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.gguf_files import converted
from tests.support.paths import DATA


@pytest.mark.parametrize("seed", range(3))
def test_conversion_with_short_writes_gives_the_same_bytes(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write, of the header, of tensors and of the journal, may write any part of what it is given."""
    (tmp_path / "clean").mkdir()
    clean = [file.path.read_bytes() for file in converted(DATA / "toy", tmp_path / "clean" / "toy.gguf", "Q8_0").files]
    chance, write, pwrite = random.Random(seed), os.write, os.pwrite
    shortened = 0

    def part(data: memoryview) -> memoryview:
        nonlocal shortened
        shortened += 1
        return data[: chance.randint(1, len(data))]

    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, part(memoryview(data))))
    monkeypatch.setattr(
        os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, part(memoryview(data)), offset)
    )
    plan = converted(DATA / "toy", tmp_path / "toy.gguf", "Q8_0")
    assert [file.path.read_bytes() for file in plan.files] == clean
    assert shortened > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["clean", *(file.path.name for file in plan.files)]
    )
