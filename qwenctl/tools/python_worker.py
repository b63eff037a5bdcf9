"""The process in which the functions of a Python file run; the program itself never imports that file.

Started as `python -m qwenctl.tools.python_worker FILE`. It writes a line of JSON with the schemas of the functions, or
with the error; then it reads calls, a line each, and writes a line with the result of each. What functions print goes
to standard error. It ends when standard input does, whatever it is doing, so that it never outlives the program.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

import pydantic
import pydantic_core
from pydantic.json_schema import GenerateJsonSchema

from qwenctl.terminal.sanitize import replace_surrogates
from qwenctl.tools.tool_set import NO_OUTPUT, error_result, shortened

_MODULE = "functions_for_the_model"


def main() -> None:
    """Serve the program at the other end of standard input and output."""
    path = Path(sys.argv[1])
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    calls: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_calls, args=(requests, calls), daemon=True).start()
    try:
        functions = _functions(_imported(path))
        schemas = [_schema(name, function) for name, function in functions.items()]
    except BaseException as error:  # noqa: BLE001 - whatever a file raises that is imported, SystemExit too
        _send(answers, {"error": _output(error, path)})
        return
    _send(answers, {"schemas": schemas})
    while True:
        call = calls.get()
        _send(answers, {"result": _result(functions[call["name"]], call["arguments"], path)})


def _read_calls(lines: BinaryIO, calls: queue.Queue[dict[str, Any]]) -> None:
    for line in lines:
        calls.put(json.loads(line))
    os._exit(0)  # not by way of the main thread, which may be inside a function


def _send(answers: int, fields: dict[str, Any]) -> None:
    line = json.dumps(fields).encode() + b"\n"
    while line:
        line = line[os.write(answers, line) :]


def _imported(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.absolute().parent))
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that the module defines itself, with a docstring and type hints for all parameters."""
    hinted = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_meant(value)}
    if not hinted:
        raise TypeError("no public function has type hints and a docstring")
    return hinted


def _is_meant(value: Any) -> bool:
    if not inspect.isfunction(value) or value.__module__ != _MODULE or not value.__doc__:
        return False
    return all(one.annotation is not one.empty for one in inspect.signature(value).parameters.values())


class _Untitled(GenerateJsonSchema):
    """Schemas without a title for each parameter, which says nothing and costs tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _schema(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What the model is told of a function."""
    try:
        parameters = pydantic.TypeAdapter(cast("Any", function)).json_schema(schema_generator=_Untitled)
    except pydantic.errors.PydanticUserError as error:
        raise TypeError(f"{name} cannot be called by a model: {str(error).splitlines()[0]}") from error
    if parameters.get("type") != "object":
        raise TypeError(f"{name} cannot be called by a model: its parameters have no names")
    description = {"name": name, "description": inspect.getdoc(function), "parameters": parameters}
    return {"type": "function", "function": description}


def _result(function: Callable[..., Any], arguments: dict[str, Any], path: Path) -> str:
    try:
        value = pydantic.validate_call(function)(**arguments)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return shortened(replace_surrogates(_text(value))) or NO_OUTPUT
    except BaseException as error:  # noqa: BLE001 - whatever a function raises is its result
        return error_result(replace_surrogates(_output(error, path)))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return pydantic_core.to_json(value, fallback=str).decode()
    except pydantic_core.PydanticSerializationError:
        return repr(value)


def _output(error: BaseException, path: Path) -> str:
    """An exception on one line, with the last line of the file that it came through."""
    if isinstance(error, pydantic.ValidationError):
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" ({path.name}, line {frames[-1].lineno})" if frames else ""
    return f"{traceback.format_exception_only(error)[-1].strip()}{place}"


if __name__ == "__main__":
    main()
