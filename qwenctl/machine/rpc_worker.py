"""This machine's devices, served to another machine by llama.cpp's RPC.

What to serve, and where, comes in; a child process (`rpc_server`) does it, and never outlives this one.
llama.cpp's RPC has no authentication and no encryption: whoever reaches the port can use, and crash, what serves it.
"""

from __future__ import annotations

import errno
import ipaddress
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.llama_process import ending, llama_environment

_READY_SECONDS, _KNOCK_SECONDS = 120.0, 0.05
_CAME, _WENT = b"Accepted client connection", b"Client connection closed"


@dataclass(frozen=True)
class RpcEndpoint:
    """Devices by their names, served at an IPv4 address with so many threads."""

    address: str
    port: int
    threads: int
    devices: tuple[str, ...]

    @property
    def endpoint(self) -> str:
        """As llama.cpp writes it."""
        return f"{self.address}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.address).is_loopback


def resolve_address(host: str) -> str:
    """The IPv4 address of a host of this machine; llama.cpp knows no other. Raises QwenctlError."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise QwenctlError(f"no address found for '{host}'", "--host 127.0.0.1", ExitCode.USAGE) from error


def free_port(address: str, port: int) -> int:
    """`port`, or for 0 any, if it is free at this address now. Raises QwenctlError."""
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


def select_devices(wanted: Sequence[str], devices: Sequence[GgmlDevice]) -> list[GgmlDevice]:
    """The devices that `wanted` names; all GPUs without names, the processors without GPUs. Raises QwenctlError."""
    unknown = [name for name in wanted if name not in {device.name for device in devices}]
    if unknown:
        names = ", ".join(device.name for device in devices) or "none"
        raise QwenctlError(f"no device is named '{unknown[0]}'", f"available: {names}")
    if wanted:
        return [device for device in devices if device.name in wanted]
    return [device for device in devices if device.kind in ("gpu", "igpu")] or list(devices)


def connection_instructions(share: RpcEndpoint) -> list[str]:
    """What a person on the other machine types, and what the one here should know."""
    danger = "llama.cpp's RPC has no authentication and no encryption"
    if not share.is_local:
        return [f"WARNING: {danger}: anyone who can reach this port can read, change and crash what runs here"]
    return [
        f"{danger}: it is reachable only from this machine. On the other machine:",
        f"  ssh -N -L {share.port}:127.0.0.1:{share.port} {platform.node() or 'THIS-MACHINE'}",
        f"  qwenctl chat -m MODEL --rpc 127.0.0.1:{share.port}",
    ]


def serve(share: RpcEndpoint, log: Path, ready: Callable[[], None], client: Callable[[bool], None]) -> None:
    """Serve until the child ends, which is a failure, or this process is told to.

    `ready` is called once it can be reached, `client` with True and False when one has come and gone. Raises
    QwenctlError with the end of the child's `log`.
    """
    with _child(share, log) as (process, output):
        _wait_until_reached(share, process)
        ready()
        knocks = {_CAME: 1, _WENT: 1}  # our own
        for line in output:
            event = line.strip()
            if knocks.get(event):
                knocks[event] -= 1
            elif event in knocks:
                client(event == _CAME)
        code = process.wait()
    why = ending(code, log.read_text("utf-8", "replace"))
    raise QwenctlError(f"the worker's server stopped ({why})", f"its log: {log}", ExitCode.ENGINE_CRASHED)


@contextmanager
def _child(share: RpcEndpoint, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    command = [sys.executable, "-P", "-m", "qwenctl.machine.rpc_server"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, share.endpoint, str(share.threads), *share.devices],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=llama_environment(),
        )
    output = process.stdout
    if output is None:  # not with a pipe
        raise RuntimeError
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()
        output.close()


def _wait_until_reached(share: RpcEndpoint, process: subprocess.Popen[bytes]) -> None:
    """Knock until it opens, or the child has ended, or a long time has passed."""
    until = time.monotonic() + _READY_SECONDS
    address = "127.0.0.1" if share.address == "0.0.0.0" else share.address  # noqa: S104 - it is what a person chose
    while process.poll() is None and time.monotonic() < until:
        with socket.socket() as knock:
            if knock.connect_ex((address, share.port)) == 0:
                return
        time.sleep(_KNOCK_SECONDS)
