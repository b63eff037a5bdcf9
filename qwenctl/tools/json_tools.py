"""Functions from a JSON file: a list in OpenAI's form, each with a `command` that answers it, or with none.

    [{"name": "get_weather", "description": "The weather in a city.",
      "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
      "command": ["python3", "weather.py"]}]

A command gets the arguments as JSON on standard input and answers on standard output; without a command a person does.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.protocol.messages import ToolCall, Tools
from qwenctl.tools.schema import parse_json
from qwenctl.tools.subprocesses import exit_description, kill_process_tree, read_chunks
from qwenctl.tools.tool_set import MOST_CHARACTERS, NO_OUTPUT, error_result, shortened

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
_MOST_BYTES = 4 * MOST_CHARACTERS + 1


class JsonTools:
    """The functions of one file. See `contract.Functions` for the methods."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Raises QwenctlError if the file is no such list."""
        self._timeout_s = timeout_s
        entries = [_entry(path, number, one) for number, one in enumerate(_listed(path), 1)]
        self.schemas: Tools = tuple({"type": "function", "function": function} for function, _ in entries)
        self._commands = {function["name"]: command for function, command in entries}
        if len(self._commands) < len(entries):
            raise _wrong(path, "two functions have the same name")
        self.manual_tools = frozenset(name for name, command in self._commands.items() if not command)

    def __enter__(self) -> JsonTools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, call: ToolCall) -> str:
        """What the command of `call` answers, or how it failed."""
        command = self._commands[call.name]
        with tempfile.TemporaryFile() as arguments:
            arguments.write(json.dumps(call.arguments, ensure_ascii=False).encode("utf-8", "replace"))
            arguments.seek(0)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=arguments,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for the chat, which ends it
                )
            except (OSError, ValueError) as error:  # the latter: a null byte in an argument
                return error_result(f"{command[0]} cannot be run: {getattr(error, 'strerror', None) or error}")
            try:
                return _answer(process, self._timeout_s)
            finally:
                kill_process_tree(process)

    def close(self) -> None:
        """Nothing runs between two calls."""


def _answer(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    streams = [cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)]
    until, output = time.monotonic() + timeout_s, [b"", b""]
    try:
        for number, data in read_chunks(streams, until):
            joined = output[number] + data
            output[number] = joined[-_MOST_BYTES:] if number else joined[:_MOST_BYTES]  # of errors the end counts
        code = process.wait(max(0.0, until - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        return error_result(f"no answer within {timeout_s:g} seconds")
    out, errors = (data.decode("utf-8", "replace").strip("\r\n") for data in output)
    if code:
        return error_result("\n".join(part for part in (exit_description(code), errors, out) if part))
    return shortened(out) or NO_OUTPUT


def _listed(path: Path) -> Sequence[Any]:
    try:
        listed = parse_json(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise _wrong(path, f"not JSON: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise _wrong(path, "not a list of functions")
    return listed


def _entry(path: Path, number: int, entry: Any) -> tuple[dict[str, Any], Sequence[str]]:
    """The function and the command of one entry."""
    fields = dict(entry) if isinstance(entry, Mapping) else {}
    command = fields.pop("command", [])
    function = fields.get("function", fields)
    place = f"function {number}"
    if not isinstance(function, Mapping) or not _NAME.fullmatch(str(function.get("name", ""))):
        raise _wrong(path, f"{place} has no name of letters, digits and _ . -")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise _wrong(path, f"the command of {function['name']} is not a list of strings")
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    if not _is_schema(parameters):
        raise _wrong(path, f"the parameters of {function['name']} are not JSON schema of an object")
    return {**function, "parameters": parameters}, command


def _is_schema(parameters: Any) -> bool:
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        return False
    required = parameters.get("required", [])
    names_fit = isinstance(required, list) and all(isinstance(name, str) for name in required)
    return names_fit and isinstance(parameters.get("properties", {}), Mapping)


def _wrong(path: Path, what: str) -> QwenctlError:
    return QwenctlError(
        f"{path}: {what}", "`qwenctl chat --help` and docs/guides/tools.md show the format", ExitCode.BAD_DATA
    )
