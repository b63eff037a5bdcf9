"""Invalid settings: one line with file, line and key, a hint, exit code 78; and the commands that work regardless."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.settings_folder import call, settings

SHOW = "`qwenctl config show` lists all keys"


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("\n\n\n\n\n[chat]\nn_gpu_layer = 5", "qwenctl.toml:7 unknown key 'n_gpu_layer'", "did you mean 'gpu-layers'?"),
        ("ctx_siz = 5", "qwenctl.toml:1 unknown key 'ctx_siz'", "did you mean 'ctx-size'?"),
        ("[chat]\nTEMP = 1", "qwenctl.toml:2 unknown key 'TEMP'", "did you mean 'temp'?"),
        ("[chat]\nno-think = true", "qwenctl.toml:2 unknown key 'no-think'", "did you mean 'think'?"),
        ("x = 5", "qwenctl.toml:1 unknown key 'x'", SHOW),
        ("'' = 5", "qwenctl.toml:1 unknown key ''", SHOW),
        ('"a\\nb\\u001b[31m" = 5', "qwenctl.toml:1 unknown key 'a b'", SHOW),
        ("[caht]\ntemp = 1", "qwenctl.toml:1 unknown table 'caht'", "did you mean 'chat'?"),
        ("[config]\njson = true", "qwenctl.toml:1 unknown table 'config'", SHOW),
        ("[chat.temp]\nx = 1", "qwenctl.toml:1 temp: a number is needed, not a table", "qwenctl chat --help"),
        ("[chat.sampling]\ntemp = 1", "qwenctl.toml:1 unknown table 'sampling'", SHOW),
        ("[quantize]\ntemp = 1", "qwenctl.toml:2 unknown key 'temp'", "'temp' belongs under [chat]"),
        ("[sessions.exprot]\nformat = 'json'", "qwenctl.toml:1 unknown table 'exprot'", "did you mean 'export'?"),
        ("chat = 5", "qwenctl.toml:1 'chat' is a command", "[chat] starts the table of its settings"),
        ("[[chat]]\ntemp = 1", "qwenctl.toml:1 'chat' is a command", "[chat] starts the table of its settings"),
        (
            "[chat]\nctx-size = 1\nctx_size = 2",
            "qwenctl.toml:3 'ctx_size' is the same key as 'ctx-size'",
            "qwenctl.toml:2 has the other one",
        ),
        (
            "[chat]\nctx-size = '8k'",
            "qwenctl.toml:2 ctx-size: '8k' is not a whole number",
            "qwenctl chat --help",
        ),
        (
            "temp = -1",
            "qwenctl.toml:1 temp: -1 is out of range: it must be a number from 0.0 to 100.0",
            "qwenctl chat --help",
        ),
        ("temp = nan", "qwenctl.toml:1 temp: 'nan' is not a finite number", "qwenctl chat --help"),
        ("temp = true", "qwenctl.toml:1 temp: a number is needed, not true", "qwenctl chat --help"),
        ("temp = 12:00:00", "qwenctl.toml:1 temp: a number is needed, not a time", "qwenctl chat --help"),
        ("temp = [1]", "qwenctl.toml:1 temp: a number is needed, not a list", "qwenctl chat --help"),
        ("think = 'yes'", "qwenctl.toml:1 think: true or false is needed, not text", "qwenctl chat --help"),
        ("think = 1", "qwenctl.toml:1 think: true or false is needed, not a number", "qwenctl chat --help"),
        ("model = 5", "qwenctl.toml:1 model: text in quotes is needed, not a number", "qwenctl chat --help"),
        (
            "tensor-type = [1]",
            "qwenctl.toml:1 tensor-type: a list of texts in quotes is needed",
            "qwenctl quantize --help",
        ),
        ("chat = {temp = 'warm'}", "qwenctl.toml:1 temp: 'warm' is not a number", "qwenctl chat --help"),
        (
            'json-schema = "a\\u0000"',
            "qwenctl.toml:1 json-schema: text without the character NUL is needed",
            "qwenctl chat --help",
        ),
        (f"temp = '{'x' * 999}'", f"qwenctl.toml:1 temp: '{'x' * 299}…", "qwenctl chat --help"),
        (
            "[chat]\ncolor = 'blue'",
            "qwenctl.toml:2 color: 'blue' is not one of 'auto', 'always', 'never'",
            "qwenctl chat --help",
        ),
        (
            f"ctx-size = 0x{'f' * 5000}",
            "qwenctl.toml:1 ctx-size: the number is too large",
            "qwenctl chat --help",
        ),
    ],
)
def test_invalid_key_or_value_is_refused_with_its_line(text: str, line: str, hint: str) -> None:
    with settings(text):
        assert call("chat").error == (line, hint, 78)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[chat\ntemp = 1", "qwenctl.toml:1 is not TOML: expected ']' at the end of a table declaration"),
        ("\ntemp = = 1", "qwenctl.toml:2 is not TOML: invalid value"),
        ("temp = 1\ntemp = 2", "qwenctl.toml:2 is not TOML: cannot overwrite a value"),
        ("\n\ntemp =\n\n", "qwenctl.toml:3 is not TOML: invalid value"),
        (
            f"temp = {'9' * 5000}",
            "qwenctl.toml is not TOML: exceeds the limit (4300 digits) for integer string conversion",
        ),
        (f"a = {'[' * 5000}", "qwenctl.toml brackets are nested too deeply"),
        (f"\na{'.a' * 20_000} = 1", "qwenctl.toml:2 has a key of 20001 parts"),
        (f"a = {{b{'.b' * 20_000} = 1}}", "qwenctl.toml:1 has a key of 20001 parts"),
        (b"temp = 1\n# \xff\n", "qwenctl.toml:2 is not UTF-8 text"),
        (b"\xff\xfet\0e\0m\0p\0", "qwenctl.toml:1 is not UTF-8 text"),
        ("\0", "qwenctl.toml:1 is not TOML: invalid statement"),
        ("#" * 300_000, "qwenctl.toml is too large for settings: more than 262,144 bytes"),
    ],
)
def test_unparsable_settings_file_is_refused(text: str | bytes, line: str) -> None:
    with settings(text):
        assert call("chat").error == (line, "qwenctl config path", 78)


def test_settings_path_that_is_not_a_regular_file_is_refused() -> None:
    with settings() as here:
        (here / "qwenctl.toml").mkdir()
        assert call("chat").error == ("qwenctl.toml is not a file", "qwenctl config path", 78)
        (here / "qwenctl.toml").rmdir()
        os.mkfifo(here / "qwenctl.toml")
        assert call("chat").error == ("qwenctl.toml is not a file", "qwenctl config path", 78)
        (here / "qwenctl.toml").unlink()
        (here / "qwenctl.toml").symlink_to("qwenctl.toml")
        line, _, code = call("chat").error
        assert (line, code) == ("qwenctl.toml cannot be read (too many levels of symbolic links)", 78)
        (here / "qwenctl.toml").unlink()
        (here / "qwenctl.toml").symlink_to("/proc/self/mem")
        assert call("chat").error[0] == "qwenctl.toml cannot be read (input/output error)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_settings_file_is_refused() -> None:
    with settings("temp = 1") as here:
        (here / "qwenctl.toml").chmod(0)
        assert call("chat").error[0] == "qwenctl.toml cannot be read (permission denied)"


def test_byte_order_mark_is_accepted() -> None:
    with settings("\ufefftemp = 2\r\nseed = 5\r\n"):
        assert call("config", "show", "chat.temp", "chat.seed").stdout == "[chat]\ntemp = 2.0\nseed = 5\n"


def test_many_wrong_keys_list_only_the_first_problems() -> None:
    """Suggesting a name for a wrong key takes time, and a downloaded folder may have any number of wrong keys."""
    with settings("".join(f"ctx-siz{number} = 1\n" for number in range(10_000))):
        assert call("chat").error == ("qwenctl.toml:1 unknown key 'ctx-siz0'", "did you mean 'ctx-size'?", 78)
        assert len(json.loads(call("config", "show", "--json").stdout)["problems"]) == 20


def test_error_in_the_user_file_shows_its_full_path() -> None:
    with settings(user="tmp = 1") as here:
        line, hint, code = call("chat").error
    assert line == f"{here.parent}/config/qwenctl/config.toml:1 unknown key 'tmp'"
    assert (hint, code) == ("did you mean 'temp'?", 78)


def test_invalid_table_fails_every_command() -> None:
    with settings("[chat]\ntmp = 1"):
        assert call("quantize", ".").code == call("sessions").code == 78


def test_invalid_variable_fails_only_its_command() -> None:
    with settings(QWENCTL_CTX_SIZE="8k", QWENCTL_CHAT_THINK="perhaps"):
        line, hint, code = call("chat").error
        assert call("quantize", "nowhere").code == 66
    assert (line, hint, code) == ("QWENCTL_CHAT_THINK: 'perhaps' is neither on nor off", "qwenctl chat --help", 78)


def test_invalid_variable_fails_despite_a_valid_file_value() -> None:
    with settings("ctx-size = 5", QWENCTL_CTX_SIZE="8k"):
        assert call("chat").error[0] == "QWENCTL_CTX_SIZE: '8k' is not a whole number"


def test_unknown_variables_are_listed_without_an_error() -> None:
    with settings(QWENCTL_FOO="1", QWENCTL_CHAT_FOO="2", QWENCTL_EMPTY="", QWENCTL_TEMP="1"):
        assert call("chat").code == 2  # no model was given
        assert call("config", "show", "seed").stdout.endswith("\n\n# not read: QWENCTL_CHAT_FOO, QWENCTL_FOO\n")
        assert json.loads(call("config", "show", "--json").stdout)["unused"] == ["QWENCTL_CHAT_FOO", "QWENCTL_FOO"]


def test_json_option_prints_a_settings_error_as_an_object() -> None:
    with settings("tmp = 1"):
        done = call("chat", "--json")
    assert json.loads(done.stdout)["error"] == {
        "code": "config",
        "message": "qwenctl.toml:1 unknown key 'tmp'",
        "hint": "did you mean 'temp'?",
        "exit": 78,
    }


BROKEN: list[str | bytes] = ["[chat", "tmp = 1", b"\xff", "chat = 1", "temp = true"]


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["chat", "--help"], ["config", "--help"], ["config", "path"], ["config", "init"]],
)
def test_help_and_config_work_with_broken_settings(arguments: list[str], text: str | bytes) -> None:
    with settings(text):
        done = call(*arguments)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("text", BROKEN)
def test_config_show_prints_valid_settings_despite_broken_ones(text: str | bytes) -> None:
    with settings(text, "seed = 5\n", QWENCTL_TEMP="warm"):
        done = call("config", "show", "seed", "--origin")
        problems = json.loads(call("config", "show", "--json").stdout)["problems"]
    assert done.stdout.startswith("[chat]\nseed = 5  # /")
    assert [f"qwenctl: warning: {problem}" for problem in problems] == done.stderr.splitlines()
    assert len(problems) == 2


@pytest.mark.parametrize("option", ["grammar", "json-schema"])
def test_empty_setting_of_a_constraint_is_refused(option: str) -> None:
    variable = f"QWENCTL_CHAT_{option.upper().replace('-', '_')}"
    for text, environment in ((f'[chat]\n{option} = ""\n', {}), ("", {variable: ""})):
        with settings(text, "", **environment):
            done = call("chat", "hi")
        assert done.stderr.startswith(f"qwenctl: error: --{option} is empty\n")
        assert done.code == 2


def test_wrong_setting_in_a_process_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "qwenctl.toml").write_text("n_gpu_layer = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "qwenctl", "chat", "hi"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    line, hint = "qwenctl: error: qwenctl.toml:1 unknown key 'n_gpu_layer'", "  hint: did you mean 'gpu-layers'?"
    assert (done.stderr.decode(), done.stdout, done.returncode) == (f"{line}\n{hint}\n", b"", 78)
