"""`qwenctl config`: the settings it shows, the files it names, and the file it writes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import typer

from qwenctl import cli
from qwenctl.settings.rules import collect_options
from tests.support.cli_runner import run
from tests.support.settings_folder import call, settings, shown

COMMANDS = collect_options(typer.main.get_command(cli.app))
EVERY_SETTING = {f"{command.name}.{setting.name}" for command in COMMANDS for setting in command.settings}


def options_of(*command: str) -> set[str]:
    """The first long name of each option in the help of a command."""
    lines = re.findall(r"^  (-.*)$", call(*command, "--help").stdout, re.MULTILINE)
    names = [re.search(r"--([a-z][a-z-]*)", line) for line in lines]
    return {name[1] for name in names if name} - {"help"}


def test_every_option_of_every_command_is_a_setting() -> None:
    with settings():
        assert shown().keys() == EVERY_SETTING
        for command in COMMANDS:
            own = {setting.name for setting in command.settings}
            assert own | command.cli_only == options_of(*command.path)
    names = {command.name for command in COMMANDS}
    assert {"chat", "quantize", "sessions.export"} <= names
    assert "config.show" not in names


def test_config_show_filters_by_command_key_or_both() -> None:
    with settings():
        assert {name.split(".")[0] for name in shown("chat")} == {"chat"}
        threads_settings = {f"{command.name}.threads" for command in COMMANDS if command.find("threads")}
        assert shown("chat.temp", "threads").keys() == {"chat.temp", *threads_settings}
        assert {"sessions.json", "sessions.export.format"} <= shown("sessions").keys()
        assert shown("chat.ctx_size").keys() == {"chat.ctx-size"}
        assert call("config", "show", "chat.tmp").error == ("no setting 'chat.tmp'", "did you mean 'chat.temp'?", 2)


def test_config_show_explains_a_command_line_without_running_it() -> None:
    with settings("seed = 5", QWENCTL_TEMP="0.5"):
        values = shown("--", "chat", "-c", "4096", "--no-think", "-m", "none.gguf", "a question")
    assert values["chat.ctx-size"] == (4096, "command line")
    assert values["chat.think"] == (False, "command line")
    assert values["chat.model"] == ("none.gguf", "command line")
    assert values["chat.temp"] == (0.5, "QWENCTL_TEMP")
    assert values["chat.seed"] == (5, "qwenctl.toml:1")


def test_config_show_of_an_invalid_command_line_is_a_usage_error() -> None:
    with settings():
        wrong = "invalid value for '-c' / '--ctx-size': 'x' is not a whole number"
        assert call("config", "show", "--", "chat", "-c", "x").error == (wrong, "qwenctl chat --help", 2)
        line, hint, code = call("config", "show", "--", "chat", "--tmp", "1").error
        assert (line, code) == ("no such option: --tmp", 2)
        assert hint == "did you mean --temp? `qwenctl chat --help` lists all"
        assert call("config", "show", "--", "caht", "-c", "1").error[0] == "no command 'caht'"


def test_config_show_prints_origins_as_comments() -> None:
    with settings("temp = 1", "system-prompt = 'a\"b\\n'"):
        text = call("config", "show", "--origin").stdout
        plain = call("config", "show").stdout
    assert tomllib.loads(text) == tomllib.loads(plain)
    assert re.search(r"^temp = 1\.0 +# qwenctl\.toml:1$", text, re.MULTILINE)
    assert re.search(r'^system-prompt = "a\\"b\\\\n" +# /.*/config\.toml:1$', text, re.MULTILINE)
    assert re.search(r'^color = "auto" +# default$', text, re.MULTILINE)
    assert re.search(r"^# top-k is not set$", text, re.MULTILINE)


def test_config_path_lists_files_in_their_order() -> None:
    with settings("temp = 1") as here:
        assert call("config", "path").stdout == (
            f"found  {here}/qwenctl.toml\nmissing  {here.parent}/config/qwenctl/config.toml\n"
        )


def test_config_init_file_has_every_setting_and_changes_nothing() -> None:
    with settings():
        before = shown()
        path = Path(call("config", "init").stdout.rstrip("\n"))
        assert call("config", "path").stdout.splitlines()[1] == f"found  {path}"
        assert shown() == before
        assert {name for name, _ in _lines(path.read_text())} == EVERY_SETTING


def test_config_init_file_shows_the_defaults() -> None:
    with settings():
        before = shown()
        text = Path(call("config", "init").stdout.rstrip("\n")).read_text()
    for name, line in _lines(text):
        if before[name][0] is not None:
            text = text.replace(f"\n# {line}\n", f"\n{line}\n", 1)
    with settings(user=text):
        after = shown()
    assert {name: value for name, (value, _) in after.items()} == {name: value for name, (value, _) in before.items()}
    assert {name for name, (_, origin) in after.items() if origin != "default"} == {
        name for name, (value, _) in before.items() if value is not None
    }


def _lines(text: str) -> list[tuple[str, str]]:
    """Dotted name and line of each key that is commented out."""
    table, lines = "", []
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(.*)\]", line):
            table = header[1]
        elif key := re.fullmatch(r"# (([a-z-]+) = .*)", line):
            lines.append((f"{table}.{key[2]}", key[1]))
    return lines


def test_config_init_does_not_replace_a_file() -> None:
    with settings(user="temp = 1") as here:
        path = here.parent / "config/qwenctl/config.toml"
        assert call("config", "init").error == (f"{path} already exists", f"rm {path}", 73)
        assert path.read_text() == "temp = 1"
        path.unlink()
        path.symlink_to("nowhere")
        assert call("config", "init").code == 73
        assert [file.name for file in path.parent.iterdir()] == ["config.toml"]


def test_config_init_reports_an_unwritable_path() -> None:
    with settings(XDG_CONFIG_HOME="/proc/nowhere"):
        line, hint, code = call("config", "init").error
    assert line == "cannot write /proc/nowhere/qwenctl/config.toml (no such file or directory)"
    assert (hint, code) == ("qwenctl config path", 73)


def test_config_show_changes_no_command_of_the_same_process() -> None:
    run("config", "show")
    assert run("sessions", "show", "-h").returncode == 0
