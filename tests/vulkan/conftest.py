"""The models of these tests, and a check that there is what they are for. `run.sh` builds it and says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantize.convert import convert
from quantize.plan import QuantizeOptions, make_plan
from qwenctl.machine import read_devices
from tests.support.checkpoints import make
from tests.support.qwen35_layout import Model
from tests.vulkan.device import NAME

collect_ignore_glob = [] if os.environ.get("TEST_VULKAN") else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _software_device() -> None:
    """Nothing here says anything without it."""
    found = [(device.name, device.kind) for device in read_devices() if device.backend == "Vulkan"]
    assert found == [(NAME, "gpu")]


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts of 64 MB, four fifths of it experts, with random weights."""
    folder = tmp_path_factory.mktemp("moe")
    checkpoint = make(folder / "checkpoint", Model(layers=8, experts=16, vision=None), seed=1)
    path = folder / "moe-BF16.gguf"
    convert(make_plan(checkpoint, path, QuantizeOptions("BF16", vision=False)), threads=1)
    return path
