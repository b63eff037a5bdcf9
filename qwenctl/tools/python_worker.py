"""The process that runs the functions of a Python file; the program itself never imports that file.

Started as `python -m qwenctl.tools.python_worker FILE`. It writes one line of JSON with the schemas of the functions or
the error; then it reads one call per line, and writes one line per result. What functions print goes to standard error.
It exits as soon as standard input is closed, even during a call, so that it never outlives the program.
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
from qwenctl.tools.tool_set import NO_OUTPUT, error_result, truncate_result

_MODULE = "functions_for_the_model"


def main() -> None:
    """Serve calls from standard input until it is closed."""
    path = Path(sys.argv[1])
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    # Functions must not read requests or write between answers: they get /dev/null and standard error instead.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    calls: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_calls, args=(requests, calls), daemon=True).start()
    try:
        functions = _find_functions(_import_file(path))
        schemas = [_make_schema(name, function) for name, function in functions.items()]
    except BaseException as error:  # noqa: BLE001 - an imported file may raise anything, SystemExit too
        _send(answers, {"error": _describe_error(error, path)})
        return
    _send(answers, {"schemas": schemas})
    while True:
        call = calls.get()
        _send(answers, {"result": _call_function(functions[call["name"]], call["arguments"], path)})


def _read_calls(lines: BinaryIO, calls: queue.Queue[dict[str, Any]]) -> None:
    for line in lines:
        calls.put(json.loads(line))
    os._exit(0)  # not sys.exit: the main thread may be busy in a function


def _send(answers: int, fields: dict[str, Any]) -> None:
    line = json.dumps(fields).encode() + b"\n"
    while line:
        line = line[os.write(answers, line) :]


def _import_file(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.absolute().parent))
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _find_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the module's own public functions with a docstring and type hints. Raises TypeError if there are none."""
    hinted = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_tool(value)}
    if not hinted:
        raise TypeError("no public function has type hints and a docstring")
    return hinted


def _is_tool(value: Any) -> bool:
    """Whether `value` is a function of the file with a docstring and type hints for all parameters."""
    if not inspect.isfunction(value) or value.__module__ != _MODULE or not value.__doc__:
        return False
    return all(item.annotation is not item.empty for item in inspect.signature(value).parameters.values())


class _UntitledSchema(GenerateJsonSchema):
    """Generates schemas without parameter titles, which cost tokens and add nothing to the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _make_schema(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the schema of a function in OpenAI's format. Raises TypeError if its parameters have no JSON schema."""
    try:
        parameters = pydantic.TypeAdapter(cast("Any", function)).json_schema(schema_generator=_UntitledSchema)
    except pydantic.errors.PydanticUserError as error:
        raise TypeError(f"{name} cannot be called by a model: {str(error).splitlines()[0]}") from error
    if parameters.get("type") != "object":
        raise TypeError(f"{name} cannot be called by a model: its parameters have no names")
    description = {"name": name, "description": inspect.getdoc(function), "parameters": parameters}
    return {"type": "function", "function": description}


def _call_function(function: Callable[..., Any], arguments: dict[str, Any], path: Path) -> str:
    """Call a function, sync or async, with validated arguments; return its result or error as text for the model."""
    try:
        value = pydantic.validate_call(function)(**arguments)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return truncate_result(replace_surrogates(_to_text(value))) or NO_OUTPUT
    except BaseException as error:  # noqa: BLE001 - whatever a function raises becomes its result
        return error_result(replace_surrogates(_describe_error(error, path)))


def _to_text(value: Any) -> str:
    """Convert a result to text: strings as they are, other values as JSON, else their repr."""
    if isinstance(value, str):
        return value
    try:
        return pydantic_core.to_json(value, fallback=str).decode()
    except pydantic_core.PydanticSerializationError:
        return repr(value)


def _describe_error(error: BaseException, path: Path) -> str:
    """Describe an exception on one line, with the line number in the file where it occurred."""
    if isinstance(error, pydantic.ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)
        )
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" ({path.name}, line {frames[-1].lineno})" if frames else ""
    return f"{traceback.format_exception_only(error)[-1].strip()}{place}"


if __name__ == "__main__":
    main()
