"""`qwenctl worker`: clients use its devices, it ends together with its server process, and its errors have hints."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from qwenctl.machine.devices import read_build
from qwenctl.machine.rpc_worker import RpcEndpoint, connection_instructions
from tests.support.cli_runner import outcome
from tests.support.command_line import run


@contextmanager
def worker(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running worker and its endpoint, HOST:PORT."""
    command = [sys.executable, "-m", "qwenctl", "worker", "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    assert process.stderr
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_client_sees_the_devices_of_the_worker() -> None:
    with worker() as (process, endpoint):
        (device,) = [device for device in read_build([endpoint]).devices if device.backend == "RPC"]
        (second,) = [device for device in read_build([endpoint]).devices if device.backend == "RPC"]
        os.kill(process.pid, signal.SIGTERM)
        process.wait(10)
        assert process.stderr
        text = process.stderr.read()
    assert (device.kind, device.description, device.total_bytes) == ("gpu", endpoint, psutil.virtual_memory().total)
    assert second.name == device.name
    port = endpoint.split(":")[1]
    assert text.startswith(f"serving CPU at {endpoint}, until Ctrl-C\nllama.cpp's RPC has no authentication")
    assert f"\n  ssh -N -L {port}:127.0.0.1:{port} " in text
    assert (
        text.count("a machine has connected\nthe machine has disconnected\n") >= 2
    )  # a client connects more than once


def test_model_runs_on_the_devices_of_the_worker(toy_gguf: Path) -> None:
    with worker() as (_, endpoint):
        done = run("bench", str(toy_gguf), *"-p 0 -n 1 -r 1 -t 1 -c 256 --json --rpc".split(), endpoint)
    report = json.loads(done.stdout)
    assert report["backends"] == "RPC"
    assert {use["name"] for use in report["memory"] if use["weights"]} >= {"RPC0"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_signal_ends_the_worker_and_its_child(number: signal.Signals, code: int) -> None:
    with worker() as (process, endpoint):
        child_processes = children(process)
        assert len(child_processes) == 1
        os.kill(process.pid, number)
        assert process.wait(10) == code
        assert all_gone(child_processes)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(endpoint.split(":")[1]))) != 0


def test_server_crash_is_reported_with_its_log() -> None:
    with worker() as (process, _):
        (server,) = children(process)
        server.send_signal(signal.SIGABRT)
        assert process.wait(10) == 70
        assert process.stderr
        text = process.stderr.read()
    assert "qwenctl: error: the worker's server stopped (SIGABRT)\n  hint: its log: " in text


def test_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message, hint, code = outcome("worker", "--port", str(port))
    assert message == f"port {port} of 127.0.0.1 is in use: is a worker already running?"
    assert (hint, code) == ("--port 0 picks a free port", 75)


@pytest.mark.parametrize(
    ("options", "message", "hint", "code"),
    [
        (["--device", "CUDA7"], "--device: no device is named 'CUDA7'", "available: CPU", 2),
        (["--host", "192.0.2.1"], "192.0.2.1 is not an address of this machine", "--host 127.0.0.1", 2),
        (["--host", "a..b"], "no address found for 'a..b'", "--host 127.0.0.1", 2),
    ],
)
def test_invalid_device_or_host_is_refused(options: list[str], message: str, hint: str, code: int) -> None:
    error = outcome("worker", "--port", "0", *options)
    assert (error[0], error[2]) == (message, code)
    assert error[1].startswith(hint)


def test_connection_instructions_for_a_network_address_have_a_warning() -> None:
    endpoint = RpcEndpoint("127.0.0.1", 50052, 1, ("CUDA0",))
    assert connection_instructions(endpoint)[1].startswith("  ssh -N -L 50052:127.0.0.1:50052 ")
    (warning,) = connection_instructions(replace(endpoint, address="10.0.0.5"))
    assert warning.startswith("WARNING: llama.cpp's RPC has no authentication")


def test_local_settings_cannot_set_the_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("here")
    (folder / "qwenctl.toml").write_text('[worker]\nhost = "0.0.0.0"\n')
    command = [sys.executable, "-m", "qwenctl", "worker", "--port", "0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "host" in done.stderr
