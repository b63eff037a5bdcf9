"""`qwenctl worker`: what it serves is a device elsewhere, it ends with its child, and says what is in its way."""

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
    """A running worker, and where it can be reached."""
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
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_another_machine_sees_the_devices_that_are_served() -> None:
    with worker() as (process, endpoint):
        (device,) = [one for one in read_build([endpoint]).devices if one.backend == "RPC"]
        (again,) = [one for one in read_build([endpoint]).devices if one.backend == "RPC"]
        os.kill(process.pid, signal.SIGTERM)
        process.wait(10)
        assert process.stderr
        text = process.stderr.read()
    assert (device.kind, device.description, device.total_bytes) == ("gpu", endpoint, psutil.virtual_memory().total)
    assert again.name == device.name
    port = endpoint.split(":")[1]
    assert text.startswith(f"serving CPU at {endpoint}, until Ctrl-C\nllama.cpp's RPC has no authentication")
    assert f"\n  ssh -N -L {port}:127.0.0.1:{port} " in text
    assert (
        text.count("a machine has connected\nthe machine has disconnected\n") >= 2
    )  # a client connects more than once


def test_a_model_runs_on_devices_that_are_served(toy_gguf: Path) -> None:
    with worker() as (_, endpoint):
        done = run("bench", str(toy_gguf), *"-p 0 -n 1 -r 1 -t 1 -c 256 --json --rpc".split(), endpoint)
    told = json.loads(done.stdout)
    assert told["backends"] == "RPC"
    assert {use["name"] for use in told["memory"] if use["weights"]} >= {"RPC0"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_it_ends_with_its_child(number: signal.Signals, code: int) -> None:
    with worker() as (process, endpoint):
        below = children(process)
        assert len(below) == 1
        os.kill(process.pid, number)
        assert process.wait(10) == code
        assert all_gone(below)
    with socket.socket() as knock:
        assert knock.connect_ex(("127.0.0.1", int(endpoint.split(":")[1]))) != 0


def test_a_server_that_crashes_is_a_failure_with_its_log() -> None:
    with worker() as (process, _):
        (server,) = children(process)
        server.send_signal(signal.SIGABRT)
        assert process.wait(10) == 70
        assert process.stderr
        text = process.stderr.read()
    assert "qwenctl: error: the worker's server stopped (SIGABRT)\n  hint: its log: " in text


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message, hint, code = outcome("worker", "--port", str(port))
    assert message == f"port {port} of 127.0.0.1 is in use: is a worker already running?"
    assert (hint, code) == ("--port 0 picks a free port", 75)


@pytest.mark.parametrize(
    ("options", "message", "hint", "code"),
    [
        (["--device", "CUDA7"], "no device is named 'CUDA7'", "available: CPU", 2),
        (["--host", "192.0.2.1"], "192.0.2.1 is not an address of this machine", "--host 127.0.0.1", 2),
        (["--host", "a..b"], "no address found for 'a..b'", "--host 127.0.0.1", 2),
    ],
)
def test_what_cannot_be_served_is_refused(options: list[str], message: str, hint: str, code: int) -> None:
    found = outcome("worker", "--port", "0", *options)
    assert (found[0], found[2]) == (message, code)
    assert found[1].startswith(hint)


def test_whoever_opens_it_to_a_network_is_warned() -> None:
    share = RpcEndpoint("127.0.0.1", 50052, 1, ("CUDA0",))
    assert connection_instructions(share)[1].startswith("  ssh -N -L 50052:127.0.0.1:50052 ")
    (warning,) = connection_instructions(replace(share, address="10.0.0.5"))
    assert warning.startswith("WARNING: llama.cpp's RPC has no authentication")


def test_the_current_folder_does_not_open_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("here")
    (folder / "qwenctl.toml").write_text('[worker]\nhost = "0.0.0.0"\n')
    command = [sys.executable, "-m", "qwenctl", "worker", "--port", "0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "host" in done.stderr
