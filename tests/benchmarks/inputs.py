"""The checkpoints of the benchmarks, made in a separate process: `python -m tests.benchmarks.inputs`.

A measuring process must stay small (see `measure.cost_of`), and random weights of a gigabyte are large.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.measure import cost_of

TOY = Path(__file__).parent.parent / "data" / "toy"
QWENCTL = Path(sys.executable).parent / "qwenctl"  # the installed program


def make_input(name: str, folder: Path) -> Path:
    """Make the checkpoint `name`, one of the functions below, in `folder`; returns its path."""
    path = folder / name
    cost_of([sys.executable, "-m", "tests.benchmarks.inputs", name, path])
    return path


def make_toy_gguf(folder: Path) -> Path:
    """The toy model at Q8_0."""
    path = folder / "toy-Q8_0.gguf"
    cost_of([QWENCTL, "quantize", TOY, "--type", "Q8_0", "--no-vision", "--quiet", "-o", path])
    return path


def _random_1gb(folder: Path) -> None:
    """A mixture-of-experts model: 64 experts in each of 4 layers and the MTP block, random weights, 1.1 GB in BF16."""
    from tests.support import checkpoints
    from tests.support.qwen35_layout import Model

    model = Model(
        hidden=1024, layers=4, attention_heads=8, kv_heads=2, head_dim=256, key_heads=16, value_heads=32,
        linear_dim=128, width=512, experts=64, experts_used=8, shared_width=512, vision=None,
    )  # fmt: skip
    checkpoints.make(folder, model)


def _sparse(folder: Path, layers: int) -> None:
    """A sparse checkpoint of zeros: the 35B with half of its experts, 0.8 GB of BF16 per layer."""
    from tests.support import checkpoints
    from tests.support.qwen35_layout import PUBLISHED

    model = replace(PUBLISHED["35B"], layers=layers, experts=128, vocabulary=1984, mtp=False, vision=None)
    checkpoints.make_sparse(folder, model)


def _four_layers(folder: Path) -> None:
    """Zeros in the shape of four layers of the 35B, with a quarter of its experts."""
    from tests.support import checkpoints
    from tests.support.qwen35_layout import PUBLISHED

    model = replace(PUBLISHED["35B"], layers=4, experts=64, vocabulary=1984, mtp=False, vision=None)
    checkpoints.make_sparse(folder, model)


def _published_397b(folder: Path) -> None:
    """Holes in the shapes of the largest published checkpoint, with a vocabulary of its size."""
    from tests.support import checkpoints
    from tests.support.qwen35_layout import PUBLISHED

    checkpoints.make_sparse(folder, PUBLISHED["397B"], shards=94, tokens=248_077)


_INPUTS: dict[str, Callable[[Path], None]] = {
    "random-1gb": _random_1gb,
    "published-397b": _published_397b,
    "sparse-4-layers": _four_layers,
    "sparse-1gb": lambda folder: _sparse(folder, 1),
    "sparse-8gb": lambda folder: _sparse(folder, 10),
}

if __name__ == "__main__":
    _INPUTS[sys.argv[1]](Path(sys.argv[2]))
