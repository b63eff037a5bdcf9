"""Memory bandwidth is measured with the largest matrix that a device can multiply."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.machine.bandwidth_cache import device_key, read_speeds
from qwenctl.machine.devices import read_devices


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of saved measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qwenctl"


def test_device_with_a_matrix_size_limit_is_measured_with_a_smaller_matrix(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulates drivers that let a kernel read at most 128 MiB, and almost nothing."""
    devices = read_devices()
    for limit, is_known in ((1 << 27, True), (1 << 10, False)):
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\n"
            "if 'qwenctl.machine.bandwidth_probe' in sys.orig_argv:\n"
            "    from qwenctl.machine.ggml import library\n"
            "    ggml, sizes = library(), {}\n"
            "    multiply, supports = ggml.ggml_mul_mat, ggml.ggml_backend_dev_supports_op\n"
            "    def noted(context, matrix, vector):\n"
            "        product = multiply(context, matrix, vector)\n"
            "        sizes[product] = ggml.ggml_nbytes(matrix)\n"
            "        return product\n"
            "    def limited(device, product):\n"
            f"        return sizes[product] <= {limit} and supports(device, product)\n"
            "    ggml.ggml_mul_mat, ggml.ggml_backend_dev_supports_op = noted, limited\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        found = read_speeds("x", devices, 1, remeasure=True).speeds[device_key(devices[0], 1)]
        assert (found.bandwidth is not None, found.copy_rate is not None) == (is_known, is_known)
