"""The functions of a Python file, which run in a process of their own (`python_worker`).

Every public function with type hints and a docstring is one. A process that takes too long or ends is started again
with the next call.
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
from qwenctl.tools.subprocesses import exit_description, kill_process_tree, read_chunks
from qwenctl.tools.tool_set import error_result

_START_S = 60.0
_LAST_WORDS_S = 0.5
_MAX_BYTES_SAVED = 4096


class PythonTools:
    """The functions of one file. See `contract.Functions` for the methods."""

    manual_tools: frozenset[str] = frozenset()

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Raises QwenctlError if the file cannot be imported or has no such function."""
        self._path, self._timeout_s = path, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        path.read_bytes()  # says why, if it cannot be read
        try:
            self.schemas: Tools = tuple(self._start())
        except _Ended as error:
            raise QwenctlError(f"{path}: {error}", f"python {path}", ExitCode.BAD_DATA) from error

    def __enter__(self) -> PythonTools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, call: ToolCall) -> str:
        """What the function of `call` returns, or how it failed."""
        try:
            if self._process is None:
                self._start()
            answer = self._ask({"name": call.name, "arguments": call.arguments}, self._timeout_s)
        except _Ended as error:
            return error_result(str(error))
        return str(answer["result"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            kill_process_tree(process)

    def _start(self) -> list[dict[str, Any]]:
        """Start the process; the schemas of its functions. Raises _Ended."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "qwenctl.tools.python_worker", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the chat, which ends it
        )
        answer = self._ask(None, _START_S)
        if "error" in answer:
            self.close()
            raise _Ended(answer["error"])
        return cast("list[dict[str, Any]]", answer["schemas"])

    def _ask(self, request: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """The next line of the process, after `request`. Raises _Ended; the process is gone then."""
        process = cast("subprocess.Popen[bytes]", self._process)
        streams = [cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)]
        line = errors = b""
        try:
            if request is not None:
                stdin = cast("IO[bytes]", process.stdin)
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            for number, data in read_chunks(streams, time.monotonic() + timeout_s):
                line, errors = (line, (errors + data)[-_MAX_BYTES_SAVED:]) if number else (line + data, errors)
                if line.endswith(b"\n"):
                    return cast("dict[str, Any]", json.loads(line))
                if number == 0 and not data:
                    break
        except TimeoutError as error:
            self.close()
            raise _Ended(f"no answer within {timeout_s:g} seconds") from error
        except BrokenPipeError:
            pass
        except BaseException:
            self.close()
            raise
        with suppress(TimeoutError):
            for _, data in read_chunks(streams[1:], time.monotonic() + _LAST_WORDS_S):
                errors += data
        self.close()
        last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise _Ended(": ".join([f"its process ended with {exit_description(process.returncode)}", *last]))


class _Ended(Exception):
    """The process of the functions ended, or had to be."""
