"""Tools from a JSON file: each runs a command within time and size limits, and every outcome becomes a result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.tools.json_tools import JsonTools
from qwenctl.tools.tool_set import MAX_RESULT_CHARACTERS
from tests.support.tool_calls import run


def load_json_tools(folder: Path, *entries: Any, timeout_s: float = 30) -> JsonTools:
    (folder / "tools.json").write_text(json.dumps(list(entries)))
    return JsonTools(folder / "tools.json", timeout_s)


def command(script: str, name: str = "f") -> dict[str, Any]:
    return {"name": name, "description": "Does it.", "command": ["sh", "-c", script]}


def test_command_reads_the_arguments_and_writes_the_result(tmp_path: Path) -> None:
    functions = load_json_tools(tmp_path, command("cat"), {"type": "function", "function": {"name": "by_hand"}})
    assert json.loads(run(functions, "f", x=[1, {"ä": None}])) == {"x": [1, {"ä": None}]}
    assert [tool["function"]["name"] for tool in functions.schemas] == ["f", "by_hand"]
    assert functions.schemas[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert "command" not in json.dumps(functions.schemas)
    assert functions.manual_tools == {"by_hand"}


@pytest.mark.timeout(300)  # well below the 600 seconds that a command sleeps
@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("true", "(no output)"),
        ("echo half; echo why >&2; exit 7", "error: exit code 7\nwhy\nhalf"),
        ("printf '\\377ok\\n\\n'", "\N{REPLACEMENT CHARACTER}ok"),
        ("kill -9 $$", "error: signal 9"),
        ("sleep 600 & echo started; exec >&- 2>&-; sleep 600", "error: no answer within 2 seconds"),
        ("yes", "error: no answer within 2 seconds"),
        ("yes >&2", "error: no answer within 2 seconds"),
        ("head -c 10000000 /dev/zero | tr '\\0' x", "x" * MAX_RESULT_CHARACTERS + "\n… cut after 20,000 characters"),
        ("setsid sleep 5 & exit 0", "error: no answer within 2 seconds"),
    ],
)
def test_command_outcome_becomes_a_result(tmp_path: Path, script: str, result: str) -> None:
    assert run(load_json_tools(tmp_path, command(script), timeout_s=2), "f") == result


def test_command_may_ignore_its_arguments(tmp_path: Path) -> None:
    assert run(load_json_tools(tmp_path, command("echo done")), "f", x="x" * 1_000_000) == "done"


@pytest.mark.parametrize("words", [["/nowhere/at/all"], ["a\0b"], ["."]])
def test_missing_command_is_an_error_result(tmp_path: Path, words: list[str]) -> None:
    functions = load_json_tools(tmp_path, {"name": "f", "command": words})
    assert run(functions, "f").startswith(f"error: {words[0]} cannot be run: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON: "),
        ("[" * 100_000, "not JSON: too deep"),
        ("[" * 100 + "]" * 100, "not JSON: too deep"),
        ("\udc00", "not JSON: 'utf-8' codec can't decode byte 0xed"),
        ("{}", "not a list of functions"),
        ("[]", "not a list of functions"),
        ("[1]", "function 1 has no name"),
        ('[{"name": "f"}, {"name": "<tool_call>"}]', "function 2 has no name of letters, digits and _ . -"),
        ('[{"name": "f"}, {"name": "f"}]', "two functions have the same name"),
        ('[{"function": 1}]', "function 1 has no name"),
        ('[{"name": "f", "command": "ls -l"}]', "the command of f is not a list of strings"),
        ('[{"name": "f", "command": [1]}]', "the command of f is not a list of strings"),
        ('[{"name": "f", "parameters": []}]', "the parameters of f are not JSON schema of an object"),
        ('[{"name": "f", "parameters": {"type": "string"}}]', "the parameters of f are not JSON schema of an object"),
        ('[{"name": "f", "parameters": {"required": [1]}}]', "the parameters of f are not JSON schema of an object"),
        ('[{"name": "f", "parameters": {"properties": 1}}]', "the parameters of f are not JSON schema of an object"),
    ],
)
def test_invalid_tool_list_is_refused_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "tools.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(QwenctlError) as caught:
        JsonTools(tmp_path / "tools.json", 30)
    assert caught.value.message.startswith(f"{tmp_path / 'tools.json'}: {reason}")
    assert caught.value.code == ExitCode.BAD_DATA
