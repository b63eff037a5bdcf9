"""Functions from a JSON file: what is a list of functions, and what is refused with its place. Nothing is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.tools.json_tools import JsonTools

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS, "command": ["weather"]}


def read(tmp_path: Path, content: Any) -> JsonTools:
    path = tmp_path / "tools.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return JsonTools(path, 1.0)


def test_function_becomes_a_schema_without_its_command(tmp_path: Path) -> None:
    tools = read(tmp_path, [WEATHER])
    function = {key: value for key, value in WEATHER.items() if key != "command"}
    assert tools.schemas == ({"type": "function", "function": function},)
    assert tools.manual_tools == frozenset()


def test_function_in_openai_form_is_the_same(tmp_path: Path) -> None:
    function = {key: value for key, value in WEATHER.items() if key != "command"}
    wrapped = {"type": "function", "function": function, "command": ["weather"]}
    assert read(tmp_path, [wrapped]).schemas == read(tmp_path, [WEATHER]).schemas


def test_function_without_a_command_is_answered_by_a_person(tmp_path: Path) -> None:
    tools = read(tmp_path, [WEATHER, {"name": "ask"}])
    assert tools.manual_tools == {"ask"}
    assert tools.schemas[1]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    assert len(read(tmp_path, "\ufeff" + json.dumps([WEATHER])).schemas) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "not JSON"),
        ("{}", "not a list of functions"),
        ("[]", "not a list of functions"),
        ([WEATHER, WEATHER], "two functions have the same name"),
        ([WEATHER, {}], "function 2 has no name of letters"),
        ([{"name": "no spaces"}], "function 1 has no name of letters"),
        ([{"name": "a" * 65}], "function 1 has no name of letters"),
        (["text"], "function 1 has no name of letters"),
        ([{**WEATHER, "command": "weather"}], "the command of get_weather is not a list of strings"),
        ([{**WEATHER, "command": [1]}], "the command of get_weather is not a list of strings"),
        ([{**WEATHER, "parameters": {"type": "string"}}], "the parameters of get_weather are not JSON schema"),
        ([{**WEATHER, "parameters": {"required": "city"}}], "the parameters of get_weather are not JSON schema"),
        ([{**WEATHER, "parameters": {"properties": []}}], "the parameters of get_weather are not JSON schema"),
    ],
)
def test_file_that_is_no_list_of_functions_is_refused_with_the_place(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(QwenctlError, match=words) as caught:
        read(tmp_path, content)
    assert caught.value.message.startswith(str(tmp_path / "tools.json"))
    assert caught.value.code == ExitCode.BAD_DATA


def test_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        JsonTools(tmp_path / "missing.json", 1.0)


def test_file_without_an_end_is_refused() -> None:
    with pytest.raises(QwenctlError, match="/dev/zero: more than 16 MiB"):
        JsonTools(Path("/dev/zero"), 1.0)
