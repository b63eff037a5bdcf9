"""The peak memory of a conversion depends on the number of its workers, not on the size of the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.plan import QuantizeOptions, make_plan
from quantize.summary import summarize
from tests.support import checkpoints
from tests.support.command_line import measured
from tests.support.qwen35_layout import Model

MODEL = Model(
    hidden=2048, attention_heads=16, head_dim=256, key_heads=16, value_heads=32, linear_dim=128, width=512, experts=32,
    experts_used=8, shared_width=512, vision=None,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed after the test, because its files are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def peak_bytes(source: Path, output: Path, threads: int) -> int:
    """Peak memory, in bytes, of a conversion to Q4_0, the type with the fastest kernel."""
    flags = ["--type", "Q4_0", "-t", str(threads), "-q", "--overwrite"]
    return measured("quantize", str(source), "-o", str(output), *flags)[0]


@pytest.mark.slow
def test_peak_memory_depends_on_workers_not_on_model_size(folder: Path) -> None:
    sources = [checkpoints.make_sparse(folder / str(n), replace(MODEL, layers=n)) for n in (4, 28)]
    gigabytes = [(source / "model.safetensors").stat().st_size / 1e9 for source in sources]
    assert gigabytes == pytest.approx([1.4, 7.9], abs=0.1)
    small, large = (peak_bytes(source, folder / "out.gguf", 2) for source in sources)
    assert large < 1.1 * small
    eight = peak_bytes(sources[0], folder / "out.gguf", 8)
    assert (eight - small) / 6 < 32 << 20
    plan = make_plan(sources[0], folder / "out.gguf", QuantizeOptions("Q4_0"))
    assert eight < summarize(plan, 8).memory_bytes
    assert small < (1 << 30) + 2 * (256 << 20)
