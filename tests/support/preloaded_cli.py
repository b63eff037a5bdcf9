"""The command line as a new process that is a fork of one that has imported it: without the half second of imports.

It has its own arguments, environment, streams, signals and exit code, as any process. huggingface_hub, which reads the
environment when it is imported, is imported anew by each. Tests of the start itself, of memory or of a locale use
`command_line.run`, and those that signal the process or give it a terminal start it themselves.

The server below is a process without threads, started at the first use. A request is one message: JSON, and the
descriptors of the program's streams and of a pipe for its exit code. The server ends with the tests' process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

# What commands import when they run, apart from libllama and what reads the environment when it is imported.
_MODULES = (
    "anyio.streams.tls anyio.to_thread email.parser filelock fsspec h11 httpcore2 httpx2 importlib.metadata"
    " markdown_it msgspec numpy pathspec platformdirs.unix psutil rich.console rich.progress rich.table tqdm.auto yaml"
    " qwenctl.chat.one_shot qwenctl.cli qwenctl.commands.chat.chat_job qwenctl.hub.repository.listing"
    " qwenctl.loading.open_model qwenctl.settings.resolve qwenctl.settings.toml qwenctl.views.models quantize.convert"
    " quantize.plan"
).split()
_MAX_MESSAGE = 1 << 18


def run(
    arguments: Sequence[str], environment: Mapping[str, str], stdin: int = subprocess.DEVNULL, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command line `arguments` to its end in this process's folder. Raises TimeoutExpired."""
    request = json.dumps({"arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()})
    reader, writer = os.pipe()
    with (
        open(reader, "rb") as answer, open(os.devnull, "rb") as nothing,
        tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err,
    ):  # fmt: skip
        given = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
        try:
            socket.send_fds(_server(), [request.encode()], [given, out.fileno(), err.fileno(), writer])
        finally:
            os.close(writer)
        if not select.select([answer], [], [], timeout_s)[0]:
            raise subprocess.TimeoutExpired(list(arguments), timeout_s)
        return subprocess.CompletedProcess(list(arguments), int(answer.read()), _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _server() -> socket.socket:
    """The socket of the server for this process's tests."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", "tests.support.preloaded_cli", str(its.fileno())]
        # Nothing that a test or an import has set: the server must see which variables its own imports set.
        clean = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        server = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, env=clean)
    atexit.register(_end, ours, server)
    return ours


def _end(ours: socket.socket, server: subprocess.Popen[bytes]) -> None:
    ours.close()
    server.wait()


def serve(requests: socket.socket, defaults: Mapping[str, str]) -> int:
    """Fork for each request; returns the exit code of the program in its process, and 0 in the server at the end.

    `defaults` are the variables that imports have set.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that wait for the programs are not waited for
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MAX_MESSAGE, 4)
        if not message:
            return 0
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            *streams, exit_code = descriptors
            program = os.fork()
            if not program:
                os.close(exit_code)
                given = json.loads(message)
                return _program(streams, given["arguments"], {**defaults, **given["environment"]}, given["folder"])
            for stream in streams:
                os.close(stream)
            _, status = os.waitpid(program, 0)
            os.write(exit_code, str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _program(streams: Sequence[int], arguments: list[str], environment: dict[str, str], folder: str) -> int:
    """Run the command line in this process, which is a fork of the server; returns its exit code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # They stay open as long as the process.
    sys.stdin = open(0, encoding="utf-8", errors=sys.stdin.errors, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors=sys.stderr.errors, closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["qwenctl", *arguments]
    return importlib.import_module("qwenctl.__main__").main()  # type: ignore[no-any-return]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        before = dict(os.environ)
        for name in _MODULES:
            importlib.import_module(name)
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("qwenctl.cli").main(["--version"])  # makes the commands
        early = sorted(name for name in ("huggingface_hub", "llama_cpp") if name in sys.modules)
        assert not early, f"imported before the environment is known: {early}"
        gc.freeze()  # the forks share the pages of these objects as long as no collection visits them
        sys.exit(serve(requests, {name: os.environ[name] for name in os.environ.keys() - before.keys()}))
