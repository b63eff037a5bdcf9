"""The models of these tests, and a check for the software device. `run.sh` builds llama.cpp and sets TEST_VULKAN."""

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
    """Check that the software device is there; without it these tests prove nothing."""
    found = [(device.name, device.kind) for device in read_devices() if device.backend == "Vulkan"]
    assert found == [(NAME, "gpu")]


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture-of-experts model of 64 MB with random weights, four fifths of it experts."""
    folder = tmp_path_factory.mktemp("moe")
    checkpoint = make(folder / "checkpoint", Model(layers=8, experts=16, vision=None), seed=1)
    path = folder / "moe-BF16.gguf"
    convert(make_plan(checkpoint, path, QuantizeOptions("BF16", vision=False)), threads=1)
    return path
