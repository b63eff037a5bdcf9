"""Inspection of the machine: processors, disks, local and RPC devices, and memory bandwidths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import read_object
from qwenctl.machine.bandwidth_cache import MemoryBandwidth, device_key, read_speeds
from qwenctl.machine.devices import GgmlDevice, read_build, read_devices
from qwenctl.machine.inspect import inspect_machine, to_plan_machine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of saved measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "qwenctl"


# ------------------------------------------------------------------ processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_process_pinned_to_one_cpu_has_one_core() -> None:
    code = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]); "
    code += "from qwenctl.machine.cpu import usable_cores; print(usable_cores())"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"1\n"


# ------------------------------------------------------------------ devices


def test_build_reports_its_backends_and_features() -> None:
    build = read_build()
    assert build.error == ""
    assert "CPU" in build.backends
    assert "cpu" in {device.kind for device in build.devices}
    if platform.machine() == "x86_64":
        assert "SSE3" in build.features


def test_broken_build_reports_its_import_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("raise OSError('libcudart.so.12: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert read_build().error == "OSError: libcudart.so.12: no such file"
    assert read_devices() == ()


def test_unreachable_rpc_server_is_named() -> None:
    with pytest.raises(QwenctlError) as refused:
        inspect_machine(["127.0.0.1:1"])
    assert refused.value.code == ExitCode.NETWORK
    assert "127.0.0.1:1" in refused.value.message


# ------------------------------------------------------------------ bandwidths


def test_bandwidths_are_measured_once_and_saved(cache: Path) -> None:
    first = to_plan_machine(inspect_machine())
    (saved,) = cache.glob("machine-*.json")
    content, since = saved.read_bytes(), saved.stat().st_mtime_ns
    assert first.ram_bandwidth is not None
    assert 1e8 < first.ram_bandwidth < 1e13  # from a slow phone to a rack
    assert first.cores >= 1
    found = inspect_machine()
    if found.threads == first.cores:  # another process may have taken a core in the meantime
        assert found.ram_speed.bandwidth == first.ram_bandwidth
        assert (saved.read_bytes(), saved.stat().st_mtime_ns) == (content, since)


def test_damaged_bandwidth_file_is_measured_again(cache: Path) -> None:
    devices = read_devices()
    for text in ("[1", '{"speeds": {"x": {"bandwidth": "fast", "copy_rate": 1}}, "measured": ""}'):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "machine-x.json").write_text(text)
        saved = read_speeds("x", devices, 1)
        assert {device_key(device, 1) for device in devices} <= set(saved.speeds)
        assert read_object(cache / "machine-x.json")["measured"] == saved.measured
        assert read_speeds("x", devices, 1) == saved


def test_bandwidths_are_measured_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    devices = read_devices()
    saved = read_speeds("x", devices, 1)
    assert saved.path is None
    assert saved.speeds[device_key(devices[0], 1)].bandwidth


def test_unmeasurable_device_has_no_bandwidth_and_is_not_retried(cache: Path) -> None:
    absent = GgmlDevice("CUDA0", "gone", "gpu", 1 << 34, 1 << 34, "CUDA")
    devices = [*read_devices(), absent]
    saved = read_speeds("x", devices, 1)
    assert saved.speeds[device_key(absent, 1)] == MemoryBandwidth()
    assert saved.speeds[device_key(devices[0], 1)].bandwidth
    assert read_speeds("x", devices, 1) == saved


def test_crashing_driver_loses_only_its_own_bandwidth(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that measures the second device is killed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'qwenctl.machine.bandwidth_probe' in sys.orig_argv:\n"
        "    from qwenctl.machine import ggml\n"
        "    devices = ggml.all_devices\n"
        "    ggml.all_devices = lambda library: devices(library) * 2\n"
        "    seen = []\n"
        "    init = ggml.set_threads\n"
        "    def killed(*arguments):\n"
        "        seen.append(1)\n"
        "        if len(seen) == 2:\n"
        f"            open({str(tmp_path / 'killed')!r}, 'w').close()\n"
        "            os.abort()\n"
        "        init(*arguments)\n"
        "    ggml.set_threads = killed\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    devices = read_devices()
    assert read_speeds("x", devices, 1).speeds[device_key(devices[0], 1)].bandwidth
    assert (tmp_path / "killed").exists()


SERVER = """
import ctypes, sys
from qwenctl.machine.ggml import all_devices, rpc_library
ggml = rpc_library()
devices = (ctypes.c_void_p * 1)(all_devices(ggml)[0])
ggml.ggml_backend_rpc_start_server(sys.argv[1].encode(), None, 1, 1, devices)
"""


@contextmanager
def run_rpc_server() -> Iterator[str]:
    """The endpoint of an RPC server on loopback whose device is this machine's CPU."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-c", SERVER, endpoint], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", int(endpoint.split(":")[1]))) == 0:
                    break
            time.sleep(0.05)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def test_rpc_device_has_its_own_memory_and_bandwidths(cache: Path) -> None:
    with run_rpc_server() as endpoint:
        found = to_plan_machine(inspect_machine([endpoint]))
    (device,) = found.devices
    assert (device.name, device.backend.split("[")[0], device.description) == ("RPC0", "RPC", endpoint)
    assert device.total_bytes == psutil.virtual_memory().total
    assert device.bandwidth is not None
    assert device.copy_rate is not None
    assert 1e6 < device.copy_rate < 1e12
    assert 1e6 < device.bandwidth < 1e13
