"""`qwenctl worker`: serves this machine's devices to another machine until it is stopped."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qwenctl.commands.options import common as options
from qwenctl.commands.quantize.result import print_status
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.paths import log_folder
from qwenctl.terminal.streams import is_terminal, text_writer, warn

Host = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; default: only this machine.")
]
Port = Annotated[
    int, typer.Option("-p", "--port", min=0, max=65535, metavar="N", help="Port to listen on; 0: any free port.")
]
Devices = Annotated[
    str,
    typer.Option(
        "-dev",
        "--device",
        metavar="NAME,...",
        help="Devices to serve, as named by `qwenctl doctor`; default: all GPUs.",
    ),
]


def worker_command(
    host: Host = "127.0.0.1", port: Port = 50052, device: Devices = "", threads: options.Threads = 0
) -> None:
    """Serve this machine's GPUs or CPU to another machine.

    It runs until Ctrl-C. llama.cpp's RPC has no authentication and no encryption: keep it on 127.0.0.1, and let the
    other machine connect through SSH with the command that is printed. There, --rpc takes its end of the tunnel.
    """
    from qwenctl.backend_check.check import require_backend
    from qwenctl.doctor.findings import detect_gpu_backends
    from qwenctl.machine.cpu import usable_cores
    from qwenctl.machine.devices import read_build
    from qwenctl.machine.llama_build import build_command
    from qwenctl.machine.rpc_worker import (
        RpcEndpoint,
        connection_instructions,
        free_port,
        resolve_address,
        select_devices,
        serve,
    )

    build = read_build()
    if build.error or "RPC" not in build.backends:
        line = build_command(next(iter(detect_gpu_backends()), "CPU"))
        raise QwenctlError(build.error or "llama.cpp is built without RPC", line, ExitCode.CONFIG)
    wanted = [name.strip() for name in device.split(",") if name.strip()]
    chosen = select_devices(wanted, build.devices)
    require_backend(chosen, report=warn)
    address = resolve_address(host)
    names = tuple(one.name for one in chosen)
    share = RpcEndpoint(address, free_port(address, port), threads or usable_cores(), names)

    def ready() -> None:
        print_status(
            f"serving {', '.join(names)} at {share.host_port}, until Ctrl-C",
            *connection_instructions(share),
            quiet=False,
        )
        if not is_terminal(sys.stdout):
            text_writer(sys.stdout)(f"{share.host_port}\n")

    def client(here: bool) -> None:
        print_status("a machine has connected" if here else "the machine has disconnected", quiet=False)

    serve(share, log_folder() / f"worker-{share.port}.log", ready, client)
