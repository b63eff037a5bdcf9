"""Tools from a Python file run in a child process within time and size limits, and every outcome becomes a result."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.tools.python_tools import PythonTools
from qwenctl.tools.tool_set import MAX_RESULT_CHARACTERS
from tests.support.tool_calls import run
from tests.support.waiting import until

SOURCE = '''
import datetime, enum, os, subprocess, sys, time
from typing import Annotated, Literal
from pydantic import BaseModel, Field

class Unit(enum.Enum):
    CELSIUS = "c"
    FAHRENHEIT = "f"

class Place(BaseModel):
    city: str
    country: str = "France"

def get_weather(place: Place, days: Annotated[int, Field(ge=1, description="How many.")] = 1,
                unit: Unit = Unit.CELSIUS, day: datetime.date | None = None) -> dict[str, object]:
    """The weather in a place.

    In the next days.
    """
    print("printed")
    return {"city": place.city, "country": place.country, "days": days, "unit": unit.name, "day": day}

def echo(text: str) -> str:
    """The text."""
    return text

async def later(seconds: float) -> float:
    """Sleeps."""
    time.sleep(seconds)
    return seconds

def count() -> int:
    """Counts its calls."""
    global calls
    calls += 1
    return calls

calls = 0

def fails(index: int) -> int:
    """Fails."""
    return [1][index]

def leaves() -> None:
    """Leaves."""
    sys.exit(3)

def dies() -> None:
    """Dies."""
    print("its last words", file=sys.stderr)
    os._exit(3)

def with_children(path: str) -> None:
    """Starts another process and hangs."""
    child = subprocess.Popen(["sleep", "600"])
    open(path + ".part", "w").write(str(child.pid))
    os.rename(path + ".part", path)
    time.sleep(600)

def reads() -> str:
    """Reads standard input."""
    return sys.stdin.read()

def odd() -> object:
    """What has no JSON."""
    return b"\\xff"

def _private(text: str) -> str:
    """Not for the model."""
    return text

def helper(text):
    """Without type hints."""
    return text

def silent(text: str) -> str:
    return text
'''
Start = Callable[..., PythonTools]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the tools of a Python source text; they are closed after the test."""
    opened = []

    def started(source: str = SOURCE, timeout_s: float = 30) -> PythonTools:
        (tmp_path / "tools.py").write_text(source)
        opened.append(PythonTools(tmp_path / "tools.py", timeout_s))
        return opened[-1]

    yield started
    for functions in opened:
        functions.close()


def test_public_functions_with_hints_and_docstrings_have_schemas(start: Start) -> None:
    schemas = {tool["function"]["name"]: tool["function"] for tool in start().schemas}
    assert set(schemas) == {
        "get_weather", "echo", "later", "count", "fails", "leaves", "dies", "with_children", "reads", "odd",
    }  # fmt: skip
    weather = schemas["get_weather"]
    assert weather["description"] == "The weather in a place.\n\nIn the next days."
    assert weather["parameters"]["required"] == ["place"]
    assert weather["parameters"]["properties"]["days"] == {
        "default": 1, "description": "How many.", "minimum": 1, "type": "integer",
    }  # fmt: skip
    assert weather["parameters"]["$defs"]["Unit"]["enum"] == ["c", "f"]


def test_arguments_are_converted_to_the_annotated_types(start: Start) -> None:
    functions = start()
    given = {"place": {"city": "Paris"}, "days": 2, "unit": "f", "day": "2026-01-02"}
    wanted = {"city": "Paris", "country": "France", "days": 2, "unit": "FAHRENHEIT", "day": "2026-01-02"}
    assert json.loads(run(functions, "get_weather", **given)) == wanted
    assert run(functions, "echo", text="Größe 日本 \ud800") == "Größe 日本 \N{REPLACEMENT CHARACTER}"
    assert run(functions, "echo", text="") == "(no output)"
    assert run(functions, "later", seconds=0.01) == "0.01"
    assert run(functions, "reads") == "(no output)"
    assert run(functions, "odd") == "b'\\xff'"
    assert [run(functions, "count"), run(functions, "count")] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("get_weather", {"place": "Paris"}, "error: place: Input should be a valid dictionary or instance of Place"),
        (
            "get_weather",
            {"place": {"city": "Paris"}, "days": 0, "x": 1},
            "error: days: Input should be greater than or equal to 1; x: Unexpected keyword argument",
        ),
        ("fails", {"index": 7}, "error: IndexError: list index out of range (tools.py, line 42)"),
        ("leaves", {}, "error: SystemExit: 3 (tools.py, line 46)"),
        ("dies", {}, "error: its process ended with exit code 3: its last words"),
    ],
)
def test_function_failure_is_an_error_result(start: Start, name: str, arguments: dict[str, Any], result: str) -> None:
    functions = start()
    assert run(functions, name, **arguments) == result
    assert run(functions, "echo", text="next") == "next"


@pytest.mark.timeout(300)  # well below the 600 seconds that the function sleeps
def test_function_over_its_time_limit_is_killed_with_its_children(start: Start, tmp_path: Path) -> None:
    functions = start(timeout_s=3)
    assert run(functions, "with_children", path=str(tmp_path / "pid")) == "error: no answer within 3 seconds"
    _wait_for_exit(int((tmp_path / "pid").read_text()))
    assert run(functions, "count") == "1"  # in a new process


def _wait_for_exit(pid: int) -> None:
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_ctrl_c_ends_a_function_and_its_children(start: Start, tmp_path: Path) -> None:
    functions = start()

    def press() -> None:
        until((tmp_path / "pid").exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        run(functions, "with_children", path=str(tmp_path / "pid"))
    _wait_for_exit(int((tmp_path / "pid").read_text()))


def test_long_result_is_truncated(start: Start) -> None:
    text = run(start(), "echo", text="x" * 1_000_000)
    assert text == "x" * MAX_RESULT_CHARACTERS + f"\n… cut after {MAX_RESULT_CHARACTERS:,} characters"


def test_close_ends_the_process(start: Start) -> None:
    before = set(psutil.Process().children())
    functions = start()
    [process] = set(psutil.Process().children()) - before
    functions.close()
    functions.close()
    assert not process.is_running()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(:\n", "SyntaxError: "),
        ("x = 1\nraise RuntimeError('no key')\n", "RuntimeError: no key (tools.py, line 2)"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye (tools.py, line 2)"),
        ("x = 1\n", "TypeError: no public function has type hints and a docstring"),
        ("from math import sqrt\n", "TypeError: no public function has type hints and a docstring"),
        ("def f(x):\n    'x'\n", "TypeError: no public function has type hints and a docstring"),
        ("def f(*x: int):\n    'x'\n", "TypeError: f cannot be called by a model: its parameters have no names"),
        ("def f(x: object.__class__.mro):\n    'x'\n", "TypeError: f cannot be called by a model: Unable to generate"),
        ("import os\nos._exit(4)\n", "its process ended with exit code 4"),
    ],
)
def test_unusable_file_is_a_one_line_error(start: Start, tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises(QwenctlError) as caught:
        start(source)
    assert caught.value.message.startswith(f"{tmp_path / 'tools.py'}: {reason}")
    assert "\n" not in caught.value.message
    assert caught.value.code == ExitCode.BAD_DATA


def test_file_imports_its_neighbors_and_may_be_named_like_a_library(tmp_path: Path) -> None:
    (tmp_path / "neighbor.py").write_text("answer = 'from next door'\n")
    (tmp_path / "json.py").write_text("from neighbor import answer\ndef f() -> str:\n    'x'\n    return answer\n")
    with PythonTools(tmp_path / "json.py", 30) as functions:
        assert run(functions, "f") == "from next door"
