"""Functions from a Python file, which run in a separate process (`python_worker`).

Every public function with type hints and a docstring is available to the model. If the process exits or a call times
out, the next call starts a new process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import ToolCall, Tools
from qwenctl.tools.subprocesses import describe_exit, kill_process_tree, read_chunks
from qwenctl.tools.tool_set import error_result

_START_TIMEOUT_S = 60.0
_STDERR_TIMEOUT_S = 0.5
_MAX_STDERR_BYTES = 4096


class PythonTools:
    """The functions of one Python file; implements `tool_set.ToolSet`."""

    manual_tools: frozenset[str] = frozenset()

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Import `path` in a new process; a call may take `timeout_s` seconds.

        Raises QwenctlError if the file cannot be imported or has no suitable function, OSError if it cannot be read.
        """
        self._path, self._timeout_s = path, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        path.open("rb").close()  # raises OSError with the reason, if it cannot be read
        try:
            self.schemas: Tools = tuple(self._start())
        except _WorkerEnded as error:
            raise QwenctlError(f"{path}: {error}", f"python {path}", ExitCode.BAD_DATA) from error

    def __enter__(self) -> PythonTools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, call: ToolCall) -> str:
        """Call the function; return its result as text, or an error result if it fails or times out."""
        try:
            if self._process is None:
                self._start()
            answer = self._ask({"name": call.name, "arguments": call.arguments}, self._timeout_s)
        except _WorkerEnded as error:
            return error_result(str(error))
        return str(answer["result"])

    def close(self) -> None:
        """Kill the process and its children."""
        if self._process is not None:
            process, self._process = self._process, None
            kill_process_tree(process)

    def _start(self) -> list[dict[str, Any]]:
        """Start the process; return the schemas of its functions. Raises _WorkerEnded."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "qwenctl.tools.python_worker", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C goes to the chat, which then kills the process
        )
        answer = self._ask(None, _START_TIMEOUT_S)
        if "error" in answer:
            self.close()
            raise _WorkerEnded(answer["error"])
        return cast("list[dict[str, Any]]", answer["schemas"])

    def _ask(self, request: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """Send `request`, if any, and return the next line of the process, parsed from JSON.

        Raises _WorkerEnded if the process exits or takes longer than `timeout_s`; it is killed then.
        """
        process = cast("subprocess.Popen[bytes]", self._process)
        streams = [cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)]
        line = errors = b""
        try:
            if request is not None:
                stdin = cast("IO[bytes]", process.stdin)
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            for number, data in read_chunks(streams, time.monotonic() + timeout_s):
                line, errors = (line, (errors + data)[-_MAX_STDERR_BYTES:]) if number else (line + data, errors)
                if line.endswith(b"\n"):
                    return cast("dict[str, Any]", json.loads(line))
                if number == 0 and not data:
                    break
        except TimeoutError as error:
            self.close()
            raise _WorkerEnded(f"no answer within {timeout_s:g} seconds") from error
        except BrokenPipeError:
            pass
        except BaseException:
            self.close()
            raise
        # The process closed its output: what is left on stderr is likely to say why, so wait a moment for it.
        with suppress(TimeoutError):
            for _, data in read_chunks(streams[1:], time.monotonic() + _STDERR_TIMEOUT_S):
                errors += data
        self.close()
        last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise _WorkerEnded(": ".join([f"its process ended with {describe_exit(process.returncode)}", *last]))


class _WorkerEnded(Exception):
    """The process exited or was killed; the message says why."""
