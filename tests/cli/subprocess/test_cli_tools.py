"""Functions with the real command line. The toy model cannot call them by itself, so a grammar forces one call."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.chat_sessions import GREEDY, QWENCTL
from tests.support.cli_runner import outcome, run
from tests.support.terminal import PAUSE_S, Terminal

# The toy model spells words in capitals: its answer to QUESTION starts with C, that to RESULT, a question, with The.
QUESTION, RESULT, ANSWER = "Spell cow.", "What is the capital of France?", "The capital of Finland."
GRAMMAR = (
    'start: "C" <tool_call> "\\n<function=get_weather>\\n<parameter=city>\\nParis\\n</parameter>\\n</function>\\n" '
    '</tool_call> | "The capital of " /[A-Z][a-z]{1,9}/ "."'
)
SOURCE = f'''
def get_weather(city: str) -> str:
    """The weather in a city."""
    with open("called", "a") as file:
        file.write(city + "\\n")
    return "{RESULT}"
'''
CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with functions in Python and in JSON, and the grammar."""
    monkeypatch.chdir(tmp_path)
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    described = {"name": "get_weather", "description": "The weather in a city.", "parameters": city}
    (tmp_path / "tools.py").write_text(SOURCE)
    (tmp_path / "tools.json").write_text(json.dumps([{**described, "command": ["echo", RESULT]}]))
    (tmp_path / "by_hand.json").write_text(json.dumps([{"type": "function", "function": described}]))
    (tmp_path / "call.lark").write_text(GRAMMAR)
    return tmp_path


def chat(model: Path, *options: str) -> list[str]:
    return ["chat", "-m", str(model), *GREEDY, "--no-think", "--grammar", "call.lark", *options]


def pipe(model: Path, *options: str, question: str = QUESTION) -> subprocess.CompletedProcess[bytes]:
    return run(*chat(model, *options), stdin=question.encode())


# ------------------------------------------------------------------ in a pipe


@pytest.mark.parametrize("tools", ["tools.py", "tools.json"])
def test_yes_option_runs_functions_and_prints_only_the_answer(toy_gguf: Path, folder: Path, tools: str) -> None:
    done = pipe(toy_gguf, "--tools", tools, "--yes")
    assert (done.stdout.decode(), done.stderr, done.returncode) == (f"{ANSWER}\n", b"", 0)
    assert tools == "tools.json" or (folder / "called").read_text() == "Paris\n"
    assert not [child for child in psutil.Process().children() if "python_worker" in " ".join(child.cmdline())]


def test_verbose_prints_calls_and_results_on_stderr(toy_gguf: Path, folder: Path) -> None:
    done = pipe(toy_gguf, "--tools", "tools.py", "--yes", "--verbose")
    assert done.stdout.decode() == f"{ANSWER}\n"
    assert f'C\n→ get_weather(city="Paris")\n{RESULT}\n' in done.stderr.decode()


def test_call_in_a_pipe_without_yes_is_refused(toy_gguf: Path, folder: Path) -> None:
    line, hint, code = outcome(*chat(toy_gguf, "--tools", "tools.py", QUESTION))
    assert line == 'the model wants to call get_weather(city="Paris")'
    assert hint == "--yes runs the functions, --json prints the calls as data"
    assert code == 77
    assert not (folder / "called").exists()


@pytest.mark.parametrize("options", [["tools.py"], ["by_hand.json"]])
def test_json_option_prints_calls_without_running_them(toy_gguf: Path, folder: Path, options: list[str]) -> None:
    options = ["--tools", *options]
    done = pipe(toy_gguf, "--json", *options)
    result = json.loads(done.stdout)
    assert (result["answer"], result["tool_calls"], result["finish_reason"]) == ("C", [CALL], "tool_calls")
    assert result["usage"]["answer_tokens"] > 10
    assert not (folder / "called").exists()
    answer = json.loads(pipe(toy_gguf, "--json", *options, question=RESULT).stdout)
    assert (answer["tool_calls"], answer["finish_reason"]) == ([], "stop")


def test_consent_beside_json_is_refused_because_nothing_is_run(toy_gguf: Path, folder: Path) -> None:
    done = pipe(toy_gguf, "--json", "--tools", "tools.py", "--yes")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["message"]) == (2, "--yes has no effect beside --json")
    assert not (folder / "called").exists()


def test_chat_without_tools_reports_no_calls(toy_gguf: Path, folder: Path) -> None:
    result = json.loads(pipe(toy_gguf, "--json").stdout)
    assert (result["tool_calls"], result["finish_reason"]) == ([], "stop")


@pytest.mark.parametrize(
    ("options", "line", "code"),
    [
        (["--tools", "nothing.py"], "nothing.py: no such file or directory", 66),
        (["--tools", "nothing.json"], "nothing.json: no such file or directory", 66),
        (["--tools", "call.lark"], "call.lark: not JSON: Expecting value: line 1 column 1 (char 0)", 65),
        (["--tools", "by_hand.json"], "get_weather has no command, and in a pipe nobody can type its result", 2),
        (["--tools", "tools.py", "--json-schema", "{}"], "--grammar and --json-schema cannot be used together", 2),
        (
            ["--tool-timeout", "0"],
            "invalid value for '--tool-timeout': 0 is out of range: it must be a whole number of at least 1",
            2,
        ),
    ],
)
def test_invalid_tool_options_are_refused(
    toy_gguf: Path, folder: Path, options: list[str], line: str, code: int
) -> None:
    message, hint, exit_code = outcome(*chat(toy_gguf, *options, QUESTION))
    assert (message, exit_code) == (line, code)
    assert hint or code == 66


def test_function_timeout_becomes_the_result(toy_gguf: Path, folder: Path) -> None:
    (folder / "tools.py").write_text(SOURCE.replace("return", "import time; time.sleep(60); return"))
    done = pipe(toy_gguf, "--tools", "tools.py", "--yes", "--tool-timeout", "1", "--verbose", "-n", "40")
    assert b"error: no answer within 1 seconds" in done.stderr


def test_local_settings_and_variables_cannot_enable_functions(toy_gguf: Path, folder: Path) -> None:
    """Otherwise a chat in a downloaded folder could run code from it."""
    for setting in ('tools = "tools.py"', "yes = true"):
        (folder / "qwenctl.toml").write_text(f"[chat]\n{setting}\n")
        line, _, code = outcome(*chat(toy_gguf, QUESTION))
        assert code == 78
        assert setting.split()[0] in line
    (folder / "qwenctl.toml").unlink()
    done = run(*chat(toy_gguf, "--json", QUESTION), QWENCTL_CHAT_TOOLS="tools.py", QWENCTL_TOOLS="tools.py")
    assert json.loads(done.stdout)["tool_calls"] == []


# ------------------------------------------------------------------ on a terminal


def test_call_on_a_terminal_runs_only_after_approval(toy_gguf: Path, folder: Path) -> None:
    command = [*QWENCTL, *chat(toy_gguf, "--tools", "tools.py")]
    with Terminal(command, folder, XDG_DATA_HOME=str(folder)) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send("/tools\r")
        terminal.wait_for("get_weather(city) The weather in a city.")
        terminal.send(QUESTION + "\r")
        time.sleep(PAUSE_S)
        terminal.send("y\r")  # a key typed before the approval prompt does not answer it
        terminal.wait_for("run it? [y]es [n]o [a]lways:")
        assert '→ get_weather(city="Paris")' in terminal.text
        assert not (folder / "called").exists()
        terminal.send("n\r")
        terminal.wait_for("did not allow this call")
        terminal.wait_for("context ")
        terminal.wait_for("> y")  # it waits at the next prompt instead, and nothing sends it
        terminal.send("\x03/regen\r")
        terminal.wait_for("run it? [y]es [n]o [a]lways:", count=2)
        terminal.send("y\r")
        terminal.wait_for(ANSWER)
        terminal.wait_for("context ", count=2)
        assert (folder / "called").read_text() == "Paris\n"
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    history = (folder / "qwenctl" / "history").read_text()
    assert QUESTION in history
    assert "\n+y\n" not in history


def test_keys_pressed_while_a_function_runs_approve_nothing(toy_gguf: Path, folder: Path) -> None:
    slow = SOURCE.replace("return", "import time; time.sleep(2); return")
    (folder / "tools.py").write_text(slow + slow.replace("get_weather", "second").replace('"called"', '"second"'))
    second = GRAMMAR.replace("get_weather", "second").split("<tool_call>", 1)[1].split("|")[0]
    (folder / "call.lark").write_text(GRAMMAR.replace("|", f'"\\n" <tool_call> {second} |', 1))
    with Terminal([*QWENCTL, *chat(toy_gguf, "--tools", "tools.py", "--no-save")], folder) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("run it? [y]es [n]o [a]lways:")
        terminal.send("y\r")
        terminal.wait_for("running get_weather")
        terminal.send("y\r")
        terminal.wait_for("run it? [y]es [n]o [a]lways:", count=2)
        time.sleep(0.5)  # long enough for the y to be taken as an answer
        assert "running second" not in terminal.text
        terminal.send("n\r")
        terminal.wait_for("did not allow this call")
        terminal.wait_for("context ")
        assert not (folder / "second").exists()
        terminal.wait_for("> y")
        terminal.send("\x03\x04")
        assert terminal.exit_code() == 0


def test_killed_chat_leaves_no_function_running(toy_gguf: Path, folder: Path) -> None:
    (folder / "tools.py").write_text(SOURCE.replace("return", "import time; time.sleep(600); return"))
    with Terminal([*QWENCTL, *chat(toy_gguf, "--tools", "tools.py", "--yes", "--no-save")], folder) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("running get_weather")
        children = psutil.Process(terminal.child.pid).children(recursive=True)
        assert len(children) == 3  # the engine, the process of its templates, that of the functions
        terminal.child.kill(signal.SIGKILL)
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_ctrl_c_stops_a_call_and_the_chat_continues(toy_gguf: Path, folder: Path) -> None:
    (folder / "tools.py").write_text(SOURCE.replace("return", "import time; time.sleep(600); return"))
    with Terminal([*QWENCTL, *chat(toy_gguf, "--tools", "tools.py", "--no-save")], folder) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for("run it? [y]es [n]o [a]lways:")
        terminal.send("\x03")
        terminal.wait_for("the user stopped this call")
        terminal.send("/regen\r")
        terminal.wait_for("run it? [y]es [n]o [a]lways:", count=2)
        terminal.send("y\r")
        terminal.wait_for("running get_weather")
        terminal.send("\x03")
        terminal.wait_for("the user stopped this call", count=2)
        terminal.send("/undo\r")
        terminal.wait_for("removed: Spell cow.")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    assert not [child for child in psutil.Process().children() if "python_worker" in " ".join(child.cmdline())]


def test_resumed_chat_with_calls_uses_the_cached_state(toy_gguf: Path, folder: Path) -> None:
    command = [*QWENCTL, *chat(toy_gguf, "--tools", "tools.py", "--yes")]
    with Terminal(command, folder, XDG_DATA_HOME=str(folder)) as terminal:
        terminal.wait_for("Ctrl-D quits")
        terminal.send(QUESTION + "\r")
        terminal.wait_for(ANSWER)
        terminal.wait_for("context ")
        terminal.send("\x04")
        assert terminal.exit_code() == 0
    with Terminal([*command, "--resume"], folder, XDG_DATA_HOME=str(folder)) as terminal:
        terminal.wait_for("nothing to evaluate again")
        assert '→ get_weather(city="Paris")' in terminal.text
        assert f"  {RESULT}" in terminal.text
        terminal.send(RESULT + "\r")
        terminal.wait_for("context ")
        terminal.send("/stats\r")
        terminal.wait_for("of them cached")
        last_prompt = next(line for line in terminal.text.splitlines() if "last prompt" in line)
        total, cached = (int(word.replace(",", "")) for word in last_prompt.split() if word[0].isdigit())
        assert total - cached < 40 < total
        terminal.send("\x04")
        assert terminal.exit_code() == 0
