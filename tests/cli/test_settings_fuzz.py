"""Random command lines, variables and settings files end with a documented exit code, never with a traceback."""

from __future__ import annotations

import json

import typer
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qwenctl import cli
from qwenctl.settings.rules import Command, Setting, collect_options
from tests.support.settings_folder import Outcome, call, settings

# Options that name an input: a missing input has other exit codes, which other tests cover.
INPUTS = {"model", "resume", "hf-repo", "grammar", "json-schema", "tools"}
COMMANDS = collect_options(typer.main.get_command(cli.app))
# Commands that fail without their argument; others would search this machine for models.
RUN = [command for command in COMMANDS if command.path[0] in ("chat", "quantize", "sessions")]
SETTINGS = [
    (command, setting) for command in COMMANDS for setting in command.settings if not INPUTS & set(setting.names)
]
OUTCOMES = {0, 2, 78}

ODD = st.sampled_from(["", "-1", "0", "1e999", "9" * 400, "0x10", "nan", "true", "off", "Q8_0", "q8_0", "48GiB", "a=b"])
TEXTS = ODD | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just("a\0b")
KEYS = st.sampled_from([name for _, setting in SETTINGS for name in setting.names]) | st.text("abc-_", max_size=5)
TABLES = st.sampled_from([command.name for command in COMMANDS]) | st.sampled_from(
    ["caht", "config", "chat.temp", "a.b"]
)
WRONG = st.sampled_from(["--help", "--versoin", "-ngk", "-c", "--", "--temp", "-é", "--=", "--no-think=1"])


def check(done: Outcome) -> None:
    assert done.code in OUTCOMES, done
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def option(setting: Setting, value: str) -> str:
    return f"--{setting.name}" if setting.kind == "switch" else f"--{setting.name}={value}"


@st.composite
def command_lines(draw: st.DrawFn, commands: list[Command]) -> list[str]:
    """A command with options, but without its positional arguments."""
    command = draw(st.sampled_from(commands))
    known = [setting for setting in command.settings if setting.name not in INPUTS]
    chosen = draw(st.lists(st.sampled_from(known), max_size=4)) if known else []
    words = [option(setting, draw(TEXTS)) for setting in chosen]
    return [*command.path, *words, *draw(st.lists(WRONG, max_size=1))]


@examples(max_examples=500)
@given(command_lines(RUN) | st.lists(TEXTS, max_size=3))
def test_random_command_line_ends_with_a_documented_exit_code(arguments: list[str]) -> None:
    with settings():
        check(call(*arguments))


@examples(max_examples=200)
@given(command_lines(list(COMMANDS)) | st.lists(TEXTS, max_size=3))
def test_config_show_of_a_random_command_line_ends_with_a_documented_exit_code(arguments: list[str]) -> None:
    with settings():
        check(call("config", "show", "--", *arguments))


@st.composite
def toml_texts(draw: st.DrawFn) -> str:
    """Tables and keys, most of them known, with values of all types."""
    lines = []
    for _ in range(draw(st.integers(0, 4))):
        lines += [f"[{draw(TABLES)}]"] if draw(st.booleans()) else []
        value = draw(SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text("ab", min_size=1), SCALARS))
        lines.append(f"{draw(KEYS) or 'k'} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: object) -> str:
    match value:
        case None:
            return "2026-01-01"
        case float():
            return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), str(value))
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{key} = {_toml(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


ANY_TOML = toml_texts() | st.text(st.sampled_from("[]{}=.,'\"#\\\n chatemp-_19"), max_size=60) | st.binary(max_size=60)
RUNS = st.sampled_from(
    [("chat",), ("chat", "--think"), ("quantize",), ("sessions",), ("config", "show"), ("config", "show", "--json"),
     ("config", "path"), ("--help",), ("chat", "--help")]
)  # fmt: skip


@examples(max_examples=500)
@given(ANY_TOML, ANY_TOML, RUNS)
def test_random_settings_file_ends_with_a_documented_exit_code(
    folder: str | bytes, user: str | bytes, run: tuple[str, ...]
) -> None:
    with settings(folder, user):
        check(call(*run))


@examples(max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted({setting.name for _, setting in SETTINGS})), TEXTS, max_size=3), RUNS)
def test_random_variable_ends_with_a_documented_exit_code(variables: dict[str, str], run: tuple[str, ...]) -> None:
    with settings(**{f"QWENCTL_{name.upper().replace('-', '_')}": text for name, text in variables.items()}):
        check(call(*run))
