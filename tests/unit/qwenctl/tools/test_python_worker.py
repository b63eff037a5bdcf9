"""Functions of a Python file as the model sees and calls them, in this process: schemas, results and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from qwenctl.tools import python_worker
from qwenctl.tools.python_worker import _call_function, _find_functions, _make_schema
from qwenctl.tools.tool_set import NO_OUTPUT

HERE = Path(__file__)


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


def choose(unit: Literal["C", "F"]) -> str:
    """Choose a unit."""
    return unit


def variadic(*numbers: int) -> int:
    """Add any numbers."""
    return sum(numbers)


def fail(text: str) -> str:
    """Fail."""
    raise ValueError(text)


async def wait() -> list[int]:
    """Answer later."""
    return [1, 2]


def nothing() -> str:
    """Say nothing."""
    return ""


def module_of(*functions: Callable[..., Any], **others: Any) -> ModuleType:
    """A module that has defined these functions itself."""
    module = ModuleType(python_worker._MODULE)
    for function in functions:
        copy = type(function)(function.__code__, function.__globals__, function.__name__, function.__defaults__)
        copy.__doc__, copy.__annotations__, copy.__module__ = (
            function.__doc__,
            function.__annotations__,
            module.__name__,
        )
        setattr(module, function.__name__, copy)
    vars(module).update(others)
    return module


def undocumented(a: int) -> int:
    return a


def unhinted(a):  # type: ignore[no-untyped-def]  # on purpose
    """Lacks a hint."""
    return a


def _private(a: int) -> int:
    """Not for the model."""
    return a


def test_functions_are_public_hinted_documented_and_of_the_module_itself() -> None:
    module = module_of(add, undocumented, unhinted, _private, imported=None)
    module.choose = choose  # type: ignore[attr-defined]  # imported from elsewhere
    assert list(_find_functions(module)) == ["add"]
    with pytest.raises(TypeError, match="no public function has type hints and a docstring"):
        _find_functions(module_of(undocumented))


def test_schema_has_types_defaults_and_no_titles() -> None:
    function = _make_schema("add", add)["function"]
    assert (function["name"], function["description"]) == ("add", "Add two numbers.")
    assert function["parameters"]["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}}
    assert function["parameters"]["required"] == ["a"]


def test_schema_of_a_literal_lists_its_values() -> None:
    assert _make_schema("choose", choose)["function"]["parameters"]["properties"]["unit"]["enum"] == ["C", "F"]


def test_function_whose_parameters_have_no_names_is_refused() -> None:
    with pytest.raises(TypeError, match="variadic cannot be called by a model"):
        _make_schema("variadic", variadic)


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [(add, {"a": 1}, "3"), (add, {"a": 1, "b": 5}, "6"), (wait, {}, "[1,2]"), (nothing, {}, NO_OUTPUT)],
)
def test_result_is_text_or_json(function: Callable[..., Any], arguments: dict[str, Any], result: str) -> None:
    assert _call_function(function, arguments, HERE) == result


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (fail, {"text": "broken"}, ("ValueError: broken", f"({HERE.name}, line ")),
        (add, {"a": "x"}, ("a: Input should be a valid integer",)),
        (add, {}, ("a: Missing required argument",)),
        (choose, {"unit": "K"}, ("unit: Input should be 'C' or 'F'",)),
    ],
)
def test_error_of_a_function_is_its_result(
    function: Callable[..., Any], arguments: dict[str, Any], words: tuple[str, ...]
) -> None:
    text = _call_function(function, arguments, HERE)
    assert all(word in text for word in words)
    assert "\n" not in text.strip()
