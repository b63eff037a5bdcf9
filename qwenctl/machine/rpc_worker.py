"""Serves this machine's devices to another machine by llama.cpp's RPC.

An endpoint comes in; a child process (`rpc_server`) serves it, and never outlives this one. llama.cpp's RPC has no
authentication and no encryption: anyone who can reach the port can use, and crash, what serves it.
"""

from __future__ import annotations

import errno
import ipaddress
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qwenctl.child_process import child_command
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.llama_process import describe_exit, llama_environment

_READY_SECONDS, _RETRY_SECONDS = 120.0, 0.05
_CONNECTED, _DISCONNECTED = b"Accepted client connection", b"Client connection closed"


@dataclass(frozen=True)
class RpcEndpoint:
    """Devices by name, served at an IPv4 address with `threads` threads."""

    address: str
    port: int
    threads: int
    devices: tuple[str, ...]

    @property
    def host_port(self) -> str:
        """ADDRESS:PORT, as llama.cpp writes it."""
        return f"{self.address}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.address).is_loopback


def resolve_address(host: str) -> str:
    """The IPv4 address of one of this machine's host names; llama.cpp supports no IPv6. Raises QwenctlError."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise QwenctlError(f"no address found for '{host}'", "--host 127.0.0.1", ExitCode.USAGE) from error


def free_port(address: str, port: int) -> int:
    """`port`, or any free port for 0, if it is free at this address now. Raises QwenctlError."""
    try:
        with socket.create_server((address, port)) as listening:
            return int(listening.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {address} is in use: is a worker already running?"
            raise QwenctlError(message, "--port 0 picks a free port", ExitCode.TRY_AGAIN) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise QwenctlError(
                f"port {port} is reserved by the system", "--port 50052", ExitCode.NO_PERMISSION
            ) from error
        raise QwenctlError(
            f"{address} is not an address of this machine", "--host 127.0.0.1", ExitCode.USAGE
        ) from error


def select_devices(requested: Sequence[str], devices: Sequence[GgmlDevice]) -> list[GgmlDevice]:
    """The devices with these names; without names all GPUs, or the CPU if there are none. Raises QwenctlError."""
    unknown = [name for name in requested if name not in {device.name for device in devices}]
    if unknown:
        names = ", ".join(device.name for device in devices) or "none"
        raise QwenctlError(f"--device: no device is named '{unknown[0]}'", f"available: {names}")
    if requested:
        return [device for device in devices if device.name in requested]
    return [device for device in devices if device.kind in ("gpu", "igpu")] or list(devices)


def connection_instructions(endpoint: RpcEndpoint) -> list[str]:
    """What to type on the other machine, and what to be aware of on this one."""
    warning = "llama.cpp's RPC has no authentication and no encryption"
    if not endpoint.is_local:
        return [f"WARNING: {warning}: anyone who can reach this port can read, change and crash what runs here"]
    return [
        f"{warning}: it is reachable only from this machine. On the other machine:",
        f"  ssh -N -L {endpoint.port}:127.0.0.1:{endpoint.port} {platform.node() or 'THIS-MACHINE'}",
        f"  qwenctl chat -m MODEL --rpc 127.0.0.1:{endpoint.port}",
    ]


def serve(endpoint: RpcEndpoint, log: Path, on_ready: Callable[[], None], on_client: Callable[[bool], None]) -> None:
    """Serve until the child ends, which is an error, or this process is stopped.

    `on_ready` is called once the server can be reached, `on_client` with True and False when a client has connected and
    disconnected. Raises QwenctlError with the last of the child's `log`.
    """
    with _child(endpoint, log) as (process, output):
        _wait_until_reachable(endpoint, process)
        on_ready()
        own_events = {_CONNECTED: 1, _DISCONNECTED: 1}  # the connection of _wait_until_reached
        # llama.cpp logs each connection; only those of clients are reported.
        for line in output:
            event = line.strip()
            if own_events.get(event):
                own_events[event] -= 1
            elif event in own_events:
                on_client(event == _CONNECTED)
        code = process.wait()
    why = describe_exit(code, log.read_text("utf-8", "replace"))
    raise QwenctlError(f"the worker's server stopped ({why})", f"its log: {log}", ExitCode.ENGINE_CRASHED)


@contextmanager
def _child(endpoint: RpcEndpoint, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    arguments = endpoint.host_port, str(endpoint.threads), *endpoint.devices
    with log.open("wb") as errors:
        process = subprocess.Popen(
            child_command("qwenctl.machine.rpc_server", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=llama_environment(),
        )
    output = process.stdout
    if output is None:  # impossible with a pipe
        raise RuntimeError
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()
        output.close()


def _wait_until_reachable(endpoint: RpcEndpoint, process: subprocess.Popen[bytes]) -> None:
    """Try to connect until that succeeds, the child has ended, or two minutes have passed."""
    deadline = time.monotonic() + _READY_SECONDS
    address = "127.0.0.1" if endpoint.address == "0.0.0.0" else endpoint.address  # noqa: S104 - the user chose it
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((address, endpoint.port)) == 0:
                return
        time.sleep(_RETRY_SECONDS)
