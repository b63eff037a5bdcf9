"""The devices and the memory of this machine, asked of libllama in a child."""

from __future__ import annotations

import subprocess
import sys

import psutil

from qwenctl.machine import read_devices, read_machine_memory


def test_the_machine_is_read_without_loading_libllama() -> None:
    code = "import sys, qwenctl.machine as m; print(m.read_machine_memory().devices)\n"
    code += "assert 'llama_cpp' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kind='cpu'" in done.stdout


def test_devices_and_memory_are_those_of_this_machine() -> None:
    found = read_machine_memory()
    (cpu,) = (device for device in found.devices if device.kind == "cpu")
    assert cpu.total_bytes == psutil.virtual_memory().total
    assert found.gpu_bytes == sum(device.total_bytes for device in read_devices() if device.has_dedicated_memory)
    assert 0 < found.memory.available_bytes <= found.memory.total_bytes <= psutil.virtual_memory().total
