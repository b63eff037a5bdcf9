"""Functions from a JSON file: a list in OpenAI's format, each with the `command` that runs it, or without.

    [{"name": "get_weather", "description": "The weather in a city.",
      "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
      "command": ["python3", "weather.py"]}]

A command reads the arguments as JSON from standard input and writes its result to standard output. For a function
without a command, the user types the result.
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
from qwenctl.tools.subprocesses import describe_exit, kill_process_tree, read_chunks
from qwenctl.tools.tool_set import MAX_RESULT_CHARACTERS, NO_OUTPUT, error_result, truncate_result

_NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
_MAX_FILE_BYTES = 16 << 20
_MAX_BYTES = 4 * MAX_RESULT_CHARACTERS + 1


class JsonTools:
    """The functions of one JSON file; implements `tool_set.ToolSet`."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Read the file at `path`; a call may take `timeout_s` seconds. Raises QwenctlError, OSError."""
        self._timeout_s = timeout_s
        entries = [_parse_entry(path, number, entry) for number, entry in enumerate(_read_list(path), 1)]
        self.schemas: Tools = tuple({"type": "function", "function": function} for function, _ in entries)
        self._commands = {function["name"]: command for function, command in entries}
        if len(self._commands) < len(entries):
            raise _invalid(path, "two functions have the same name")
        self.manual_tools = frozenset(name for name, command in self._commands.items() if not command)

    def __enter__(self) -> JsonTools:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, call: ToolCall) -> str:
        """Run the command of `call`; return its output, or an error result if it fails or times out."""
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
                    start_new_session=True,  # Ctrl-C goes to the chat, which then kills the command
                )
            except (OSError, ValueError) as error:  # ValueError: a null byte in an argument
                return error_result(f"{command[0]} cannot be run: {getattr(error, 'strerror', None) or error}")
            try:
                return _read_result(process, self._timeout_s)
            finally:
                kill_process_tree(process)

    def close(self) -> None:
        """Do nothing: no process runs between two calls."""


def _read_result(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Wait for a command and return its output; an error result on a nonzero exit code or after `timeout_s`."""
    streams = [cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)]
    deadline, output = time.monotonic() + timeout_s, [b"", b""]
    try:
        for number, data in read_chunks(streams, deadline):
            joined = output[number] + data
            output[number] = (
                joined[-_MAX_BYTES:] if number else joined[:_MAX_BYTES]
            )  # the end of stderr, the start of stdout
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        return error_result(f"no answer within {timeout_s:g} seconds")
    out, errors = (data.decode("utf-8", "replace").strip("\r\n") for data in output)
    if code:
        return error_result("\n".join(part for part in (describe_exit(code), errors, out) if part))
    return truncate_result(out) or NO_OUTPUT


def _read_list(path: Path) -> Sequence[Any]:
    """Read the list of functions. Raises QwenctlError if the file is not a JSON list with entries."""
    with path.open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise _invalid(path, f"more than {_MAX_FILE_BYTES >> 20} MiB")
    try:
        entries = parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise _invalid(path, f"not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise _invalid(path, "not a list of functions")
    return entries


def _parse_entry(path: Path, number: int, entry: Any) -> tuple[dict[str, Any], Sequence[str]]:
    """Return the function and the command of one entry (`number` from 1). Raises QwenctlError."""
    fields = dict(entry) if isinstance(entry, Mapping) else {}
    command = fields.pop("command", [])
    function = fields.get("function", fields)
    place = f"function {number}"
    if not isinstance(function, Mapping) or not _NAME.fullmatch(str(function.get("name", ""))):
        raise _invalid(path, f"{place} has no name of letters, digits and _ . -")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise _invalid(path, f"the command of {function['name']} is not a list of strings")
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    if not _is_schema(parameters):
        raise _invalid(path, f"the parameters of {function['name']} are not JSON schema of an object")
    return {**function, "parameters": parameters}, command


def _is_schema(parameters: Any) -> bool:
    """Whether `parameters` is a JSON schema of an object, as far as it is read here."""
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        return False
    required = parameters.get("required", [])
    names_fit = isinstance(required, list) and all(isinstance(name, str) for name in required)
    return names_fit and isinstance(parameters.get("properties", {}), Mapping)


def _invalid(path: Path, what: str) -> QwenctlError:
    return QwenctlError(
        f"{path}: {what}", "`qwenctl chat --help` and docs/guides/tools.md show the format", ExitCode.BAD_DATA
    )
