"""Devices and memory of this machine, as libllama reports them in a child process."""

from __future__ import annotations

import subprocess
import sys

import psutil

from qwenctl.machine import read_devices, read_machine_memory


def test_machine_memory_is_read_without_loading_libllama() -> None:
    code = "import sys, qwenctl.machine as m; print(m.read_machine_memory().devices)\n"
    code += "assert 'llama_cpp' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kind='cpu'" in done.stdout


def test_machine_memory_matches_the_operating_system() -> None:
    found = read_machine_memory()
    (cpu,) = (device for device in found.devices if device.kind == "cpu")
    assert cpu.total_bytes == psutil.virtual_memory().total
    assert found.gpu_bytes == sum(device.total_bytes for device in read_devices() if device.has_dedicated_memory)
    assert 0 < found.memory.available_bytes <= found.memory.total_bytes <= psutil.virtual_memory().total
