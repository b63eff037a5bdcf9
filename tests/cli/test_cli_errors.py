"""Errors of the command line: one line, a hint, an exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantize import errors as quantize_errors
from qwenctl.cli import main
from qwenctl.errors import ExitCode, explain, from_quantize
from tests.support.cli_runner import outcome, run

CACHE_TYPES = "'f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_1', 'iq4_nl', 'q5_0', 'q5_1'"

# ------------------------------------------------------------------ the command line itself


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["chta"], "no such command 'chta'", "did you mean chat? `qwenctl --help` lists all"),
        (["chat", "--modle", "x"], "no such option: --modle", "did you mean --model? `qwenctl chat --help` lists all"),
        (["chat", "-ngk", "5"], "no such option: -ngk", "did you mean -ngl? `qwenctl chat --help` lists all"),
        (["chat", "-m"], "option '-m' requires an argument", "qwenctl chat --help"),
        (
            ["chat", "-c", "x"],
            "invalid value for '-c' / '--ctx-size': 'x' is not a whole number",
            "qwenctl chat --help",
        ),
        (
            ["chat", "-ctk", "q9"],
            f"invalid value for '-ctk' / '--cache-type-k': 'q9' is not one of {CACHE_TYPES}",
            "qwenctl chat --help",
        ),
        (
            ["chat"],
            "no model: -m takes a GGUF file or a model listed by `qwenctl ls`",
            "`qwenctl pull qwen3.5-35b-a3b` downloads one that fits this machine",
        ),
    ],
)
def test_usage_error_is_one_line_with_a_hint(arguments: list[str], line: str, hint: str) -> None:
    assert outcome(*arguments) == (line, hint, 2)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("-b", "0", "0 is out of range: it must be a whole number of at least 1"),
        ("-ub", "-5", "-5 is out of range: it must be a whole number of at least 1"),
        ("-c", "1e9", "'1e9' is not a whole number"),
        ("-c", "9999999999", "9999999999 is out of range: it must be a whole number from 0 to 2,147,483,647"),
        ("-c", "9" * 400, f"{'9' * 400} is out of range: it must be a whole number from 0 to 2,147,483,647"),
        ("-n", "-2", "-2 is out of range: it must be a whole number of at least -1"),
        ("-t", "two", "'two' is not a whole number"),
        ("--temp", "nan", "'nan' is not a finite number"),
        ("--temp", "inf", "'inf' is not a finite number"),
        ("--temp", "-0.1", "-0.1 is out of range: it must be a number from 0.0 to 100.0"),
        ("--top-p", "1.5", "1.5 is out of range: it must be a number from 0.0 to 1.0"),
        ("--top-k", "-1", "-1 is out of range: it must be a whole number of at least 0"),
        (
            "--seed",
            "4294967296",
            "4294967296 is out of range: it must be a whole number from -1 to 4,294,967,295",
        ),
        ("-ngl", "many", "'many' is not a whole number"),
    ],
)
def test_invalid_option_value_is_refused(option: str, value: str, reason: str) -> None:
    line, _, code = outcome("chat", option, value)
    assert (line.split(": ", 1)[1], code) == (reason, 2)


def test_no_command_shows_the_help() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout.startswith(b"Usage: qwenctl")


def test_version_option_prints_the_version() -> None:
    done = run("--version")
    assert (done.stdout, done.returncode) == (b"qwenctl 0.1.0\n", 0)


def test_chat_help_lists_llama_cpp_flags() -> None:
    text = run("chat", "--help").stdout.decode()
    for flag in ("-m", "-c", "-n", "-t", "-b", "-ub", "-ngl", "-ctk", "-ctv", "-fa", "--load-mode", "-s", "-sys"):
        assert f"{flag}," in text or f"{flag} " in text
    for flag in ("--temp", "--top-k", "--top-p", "--min-p", "--presence-penalty", "--repeat-last-n", "--no-think"):
        assert flag in text


# ------------------------------------------------------------------ how failures are shown


def test_json_option_prints_the_error_as_an_object_on_stdout(tmp_path: Path) -> None:
    done = run("chat", "--json", "-m", str(tmp_path / "none.gguf"))
    assert (done.returncode, done.stderr) == (66, b"")
    assert json.loads(done.stdout) == {
        "error": {
            "code": "no_input",
            "message": f"no such file: {tmp_path}/none.gguf",
            "hint": "`qwenctl quantize CHECKPOINT_FOLDER` makes one",
            "exit": 66,
        }
    }


def test_traceback_is_shown_only_with_debug(tmp_path: Path) -> None:
    plain, debug = run("chat", "-m", str(tmp_path)), run("chat", "--debug", "-m", str(tmp_path))
    assert b"Traceback" not in plain.stderr
    assert b"Traceback" in debug.stderr
    assert b"is a folder" in debug.stderr


def test_closed_pipe_ends_help_quietly() -> None:
    command = f"{sys.executable} -m qwenctl chat --help; echo $? >&2"
    done = subprocess.run(["bash", "-c", f"({command}) | :"], capture_output=True, timeout=60, check=False)
    assert done.stderr == b"141\n"


def test_full_disk_while_printing_help_is_one_line() -> None:
    command = f"{sys.executable} -m qwenctl chat --help > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.stderr == b"qwenctl: error: cannot write the output (no space left on device)\n"
    assert done.returncode == 74


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time\n"
        "from qwenctl.cli import main\n"
        "assert main(['chat', '--help']) == 0\n"
        "heavy = {'numpy', 'llama_cpp', 'gguf', 'huggingface_hub', 'rich', 'jinja2', 'prompt_toolkit'}\n"
        "print(sorted(heavy & set(sys.modules)), time.process_time(), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    heavy, seconds = done.stderr.decode().rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1.0  # the goal of 0.2 s is measured by the benchmark, on a quiet machine


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (quantize_errors.MissingInput, 66),
        (quantize_errors.BadCheckpoint, 65),
        (quantize_errors.BadGGUF, 65),
        (quantize_errors.BadOption, 2),
        (quantize_errors.NeedsImatrix, 65),
        (quantize_errors.NoSpace, 74),
        (quantize_errors.CannotWrite, 73),
        (quantize_errors.Interrupted, 130),
    ],
)
def test_quantize_error_maps_to_its_exit_code(kind: type[quantize_errors.QuantizeError], code: int) -> None:
    failure = from_quantize(kind("what", "why"))
    assert (failure.message, failure.hint, failure.code) == ("what", "why", code)


def test_unexpected_exception_is_an_internal_error() -> None:
    failure = explain(ZeroDivisionError("division by zero"))
    line = "internal error: ZeroDivisionError: division by zero"
    assert (failure.message, failure.hint, failure.code) == (line, "run again with --debug and report it", ExitCode.BUG)


@pytest.mark.parametrize("arguments", [["--version"], ["chat", "--no-such-option"], ["config", "path"], ["ls", "/no"]])
def test_main_restores_signal_handlers(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    def handlers() -> dict[int, object]:
        return {number: signal.getsignal(number) for number in signal.valid_signals()}

    before = handlers()
    main(arguments)
    assert handlers() == before
