"""Runs many commands without starting Python for each: a process that has imported the program forks for every one.

`CommandServer` is the side of the trials. A fork has all modules, so that a command of a second spends its time on its
files, and a kill at a random moment meets them and not the imports. What a command starts itself, as an engine, is a
new process as always. huggingface_hub reads its settings once: they are those of the server.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self, cast

_MODULES = (
    "quantize.convert", "qwenctl.cli", "qwenctl.batch.run", "qwenctl.batch.runner", "qwenctl.chat.saved.sessions",
    "qwenctl.hub.pull", "qwenctl.hub.streaming.conversion", "qwenctl.views.pull", "qwenctl.views.quantization",
)  # fmt: skip


@dataclass(frozen=True)
class RunningCommand:
    """A command in a fork of the server."""

    server: CommandServer
    pid: int
    stderr: Path

    def kill(self) -> None:
        """Kill it; nothing happens if it has ended."""
        os.kill(self.pid, signal.SIGKILL)  # until `wait` it is a child of the server, so its number is its own

    def wait(self, timeout_s: float = 120) -> tuple[int, str]:
        """Its exit code, negative for a signal, and its standard error. Raises AssertionError if it does not end."""
        try:
            code = int(self.server.ask({"wait": self.pid}, timeout_s))
        except TimeoutError:
            self.kill()
            self.server.ask({}, 10)
            raise AssertionError(f"no end within {timeout_s:g} s: {self.stderr.read_text(errors='replace')}") from None
        return code, self.stderr.read_text(errors="replace")


class CommandServer:
    """The server, while the block runs."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.command_server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, arguments: Sequence[str], folder: Path, outputs: Path, more: Mapping[str, str]) -> RunningCommand:
        """Start a command in `folder`, with `more` environment variables and its streams in files in `outputs`."""
        stdout, stderr = outputs / "stdout", outputs / "stderr"
        request = {"run": list(arguments), "folder": str(folder), "files": [str(stdout), str(stderr)], "more": more}
        return RunningCommand(self, int(self.ask(request, 60)), stderr)

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> Any:
        """The answer to a request; one without fields only waits for the answer to the last. Raises TimeoutError."""
        requests, answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        if request:
            requests.write(f"{json.dumps(request)}\n")
            requests.flush()
        if not select.select([answers], [], [], timeout_s)[0]:
            raise TimeoutError
        return json.loads(answers.readline())


def _run(request: Mapping[str, Any]) -> NoReturn:
    """Be the command that is asked for: one of `qwenctl`, or a module of these tests and its arguments."""
    code = 1
    try:
        os.chdir(request["folder"])
        for number, name in enumerate([os.devnull, *request["files"]]):
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.update(request["more"])
        first, *others = request["run"]
        module = importlib.import_module(first if first.startswith("tests.") else "qwenctl.cli")
        code = module.main(others if first.startswith("tests.") else [first, *others])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Serve until the standard input ends: a line of JSON for each request, and one for each answer."""
    for module in _MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            answer = os.fork()
            if not answer:
                _run(request)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
