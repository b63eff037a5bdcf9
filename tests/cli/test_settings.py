"""Sources of an option's value: command line, environment, the folder's file, the user's file, default."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qwenctl import cli
from qwenctl.settings.origins import toml_text
from qwenctl.settings.resolve import resolve
from qwenctl.settings.rules import ALLOWED_IN_LOCAL_FILE, Command, Setting, collect_options
from qwenctl.settings.toml import TomlFile
from tests.support.paths import ROOT, TOY
from tests.support.settings_folder import call, settings, shown

# By precedence, highest first. Each but the default may be present or absent.
SOURCES = ("flag", "variable", "shared variable", "folder", "folder, shared", "user", "user, shared", "default")
# Command and option, and a value for each source.
OPTIONS: dict[tuple[str, str], list[Any]] = {
    ("chat", "ctx-size"): [1024, 2048, 3072, 4096, 5120, 6144, 7168, 0],
    ("chat", "temp"): [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, None],
    ("chat", "gpu-layers"): [1, 2, 3, 4, 5, 6, 7, -1],
    ("chat", "cache-type-k"): ["f32", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "f16"],
    ("chat", "model"): ["a", "b", "c/d.gguf", "e", "é", "g g", 'h"h', None],
    ("quantize", "type"): ["Q8_0", "Q5_K_M", "BF16", "F16", "Q6_K", "Q4_K_S", "Q3_K_M", "Q4_K_M"],
    ("quantize", "threads"): [1, 2, 3, 4, 5, 6, 7, 0],
    ("quantize", "tensor-type"): [[f"ffn={number}"] for number in range(7)] + [None],
}


def sources_of(command: str, key: str, values: dict[str, Any]) -> tuple[list[str], dict[str, str], str, str]:
    """The flags, variables and both files (folder, user) that set an option to `values`, a dictionary by source."""

    def lines(source: str) -> str:
        shared, own = values.get(f"{source}, shared"), values.get(source)
        top = f"{key} = {json.dumps(shared, ensure_ascii=False)}\n" if shared is not None else ""
        name = key.replace("-", "_")
        return top + (f"[{command}]\n{name} = {json.dumps(own, ensure_ascii=False)}\n" if own is not None else "")

    def text(value: Any) -> str:
        return str(value[0] if isinstance(value, list) else value)

    name = key.upper().replace("-", "_")
    variables = {"variable": f"QWENCTL_{command.upper()}_{name}", "shared variable": f"QWENCTL_{name}"}
    environment = {variable: text(values[source]) for source, variable in variables.items() if source in values}
    flags = [f"--{key}", text(values["flag"])] if "flag" in values else []
    return flags, environment, lines("folder"), lines("user")


def origin_of(source: str, command: str, key: str, present: set[str], here: Path) -> str:
    name = key.upper().replace("-", "_")
    file, _, shared = source.partition(", ")
    line = 1 if shared else 3 if f"{file}, shared" in present else 2
    return {
        "flag": "command line",
        "variable": f"QWENCTL_{command.upper()}_{name}",
        "shared variable": f"QWENCTL_{name}",
        "folder": f"qwenctl.toml:{line}",
        "user": f"{here.parent}/config/qwenctl/config.toml:{line}",
        "default": "default",
    }[file]


@examples(max_examples=300)
@given(st.sampled_from(list(OPTIONS)), st.sets(st.sampled_from(SOURCES[:-1])))
def test_option_takes_the_first_source_present(option: tuple[str, str], present: set[str]) -> None:
    command, key = option
    values = dict(zip(SOURCES, OPTIONS[option], strict=True))
    flags, variables, folder, user = sources_of(command, key, {name: values[name] for name in present})
    first = next(source for source in SOURCES if source in present or source == "default")
    with settings(folder, user, **variables) as here:
        value, origin = shown("--", command, *flags, "--json")[f"{command}.{key}"]
    assert value == values[first]
    assert origin == origin_of(first, command, key, present, here)


@examples(max_examples=40)
@given(st.sets(st.sampled_from(SOURCES[:-1])))
def test_command_uses_the_first_source_present(present: set[str]) -> None:
    given_values = {key: dict(zip(SOURCES, OPTIONS["quantize", key], strict=True)) for key in ("type", "threads")}
    flags, variables, folder, user = sources_of(
        "quantize", "type", {name: value for name, value in given_values["type"].items() if name in present}
    )
    first = next(source for source in SOURCES if source in present or source == "default")
    with settings(folder, user, **variables, QWENCTL_THREADS="3"):
        done = call("quantize", str(TOY), "--dry-run", "--json", *flags)
    plan = json.loads(done.stdout)
    assert (plan["type"], plan["threads"], done.code) == (given_values["type"][first], 3, 0)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("QWENCTL_CHAT_THINK", "off", False),
        ("QWENCTL_THINK", "No", False),
        ("QWENCTL_THINK", "1", True),
        ("QWENCTL_THINK", "enabled", True),
        ("QWENCTL_N_GPU_LAYERS", "all", -1),
        ("QWENCTL_CHAT_SYSTEM_PROMPT", "  two  spaces ", "  two  spaces "),
        ("QWENCTL_QUANTIZE_TENSOR_TYPE", "a=q6_k  b=q8_0", ["a=q6_k", "b=q8_0"]),
        ("QWENCTL_QUANTIZE_SPLIT_MAX_SIZE", "48GiB", 48 * 2**30),
    ],
)
def test_variable_parses_like_its_option(variable: str, text: str, value: object) -> None:
    with settings(**{variable: text}):
        settings_from_source = [setting for setting in shown().values() if setting[1] == variable]
    assert settings_from_source
    assert [setting for setting in settings_from_source if setting != (value, variable)] == []


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("think = false", False),
        ("n-gpu-layers = 'all'", -1),
        ("n_gpu_layers = 0x10", 16),
        ("temp = 1", 1.0),
        ("ctx-size = '4096'", 4096),
        ("system-prompt = '''\ntwo\nlines'''", "two\nlines"),
        ("tensor-type = 'a=q6_k'", ["a=q6_k"]),
        ("tensor-type = ['a=q6_k', 'b=q8_0']", ["a=q6_k", "b=q8_0"]),
        ("split-max-size = 48_000_000", 48_000_000),
        ("split-max-size = '48M'", 48 << 20),
        ("color = 'never'", "never"),
    ],
)
def test_file_key_parses_like_its_option(line: str, value: object) -> None:
    with settings(f"# a comment\n\n{line}\n"):
        settings_from_source = [setting for setting in shown().values() if setting[1] == "qwenctl.toml:3"]
    assert settings_from_source
    assert [setting for setting in settings_from_source if setting != (value, "qwenctl.toml:3")] == []


def test_tilde_in_a_path_setting_is_the_home_folder() -> None:
    with settings("[quantize]\nimatrix = '~/a.gguf'", HOME="/home/someone", QWENCTL_OUTPUT="~/b.gguf"):
        found = shown("quantize")
    assert found["quantize.imatrix"][0] == "/home/someone/a.gguf"
    assert found["quantize.output"][0] == "/home/someone/b.gguf"


def test_top_level_key_applies_to_every_command_with_that_option() -> None:
    with settings("threads = 5"):
        found = shown("threads")
    threads_settings = {f"{command.name}.threads": 5 for command in COMMANDS if command.find("threads")}
    assert {name: value for name, (value, _) in found.items()} == threads_settings
    assert {"quantize.threads", "chat.threads"} <= threads_settings.keys()


def test_subcommand_has_its_own_table_and_variables() -> None:
    with settings("[sessions.export]\nformat = 'json'"):
        assert shown("sessions.export.format")["sessions.export.format"] == ("json", "qwenctl.toml:2")
    with settings(QWENCTL_SESSIONS_EXPORT_FORMAT="json"):
        assert shown("format")["sessions.export.format"] == ("json", "QWENCTL_SESSIONS_EXPORT_FORMAT")


def test_flag_overrides_a_setting() -> None:
    with settings("think = false\n"):
        assert shown("--", "chat", "--think")["chat.think"] == (True, "command line")


def test_empty_variable_is_ignored() -> None:
    with settings("temp = 0.5", QWENCTL_TEMP=""):
        assert shown("temp")["chat.temp"] == (0.5, "qwenctl.toml:1")


def test_plan_by_hand_is_not_contradicted_by_a_setting(toy_gguf: Path) -> None:
    command = ("chat", "-m", str(toy_gguf), "--plan", "none.json", "Hi")
    for sources in ({"user": "ctx-size = 4096"}, {"folder": "threads = 2"}, {"QWENCTL_CPU_MOE": "1"}):
        with settings(**sources):
            assert call(*command).error[0] == "none.json: no such file or directory"
    with settings():
        assert call(*command, "-c", "4096").error[0] == "--plan cannot be used with options that a plan sets"


def test_json_setting_applies_to_errors() -> None:
    with settings(QWENCTL_JSON="1"):
        done = call("chat", "-m", "none.gguf")
    assert (json.loads(done.stdout)["error"]["code"], done.stderr, done.code) == ("no_input", "", 66)


def test_help_shows_program_defaults_despite_settings() -> None:
    with settings("ctx-size = 12345"):
        assert "12345" not in call("chat", "--help").stdout


COMMANDS = collect_options(typer.main.get_command(cli.app))
# What only the user may set, with reasons. Every other option of every command is in ALLOWED_IN_LOCAL_FILE.
DENIED = {
    "written": "output plot svg to keep spool save-as",
    "deleted, replaced or confirmed": "yes overwrite force-resume forget repair resume",
    "contacted, sent or opened": "allow-url allow-private-url api-key endpoint rpc host port",
    "chooses what is loaded, in a file that this program wrote": "plan locked",
}
DENIED_NAMES = {name for names in DENIED.values() for name in names.split()}
GUARDED = [
    (command, setting)
    for command in COMMANDS
    for setting in command.settings
    if setting.name not in ALLOWED_IN_LOCAL_FILE
]


def test_every_option_is_either_allowed_or_denied_in_the_local_file() -> None:
    """A new option is denied until somebody has decided, and listed it in one of the two."""
    every = {one.name for command in COMMANDS for one in (*command.settings, *command.old_settings)}
    assert every - ALLOWED_IN_LOCAL_FILE == DENIED_NAMES
    assert every >= ALLOWED_IN_LOCAL_FILE


def test_path_that_is_written_is_never_allowed_in_the_local_file() -> None:
    paths = {one.name for command in COMMANDS for one in (*command.settings, *command.old_settings) if one.is_path}
    assert paths & ALLOWED_IN_LOCAL_FILE == {"imatrix", "mmproj", "model"}  # which are only read


def test_new_option_is_denied_in_the_local_file_of_a_folder() -> None:
    app = typer.Typer()

    @app.command("draw")
    def draw(canvas: Path = Path("a"), temp: float = 1.0) -> None:
        """Has an option that nobody has listed."""

    @app.command("other")
    def other() -> None:
        """Makes `draw` a command of a group."""

    file = TomlFile(Path("qwenctl.toml"), {"draw": {"canvas": "/b", "temp": 0.5}})
    resolved = resolve(collect_options(typer.main.get_command(app)), file, TomlFile(Path("config.toml")), {})
    [problem] = resolved.problems
    assert problem.error.message == "qwenctl.toml 'canvas' is not allowed in a file in the current folder"
    assert [name for _, name in resolved.values] == ["temp"]


def test_shared_key_is_refused_if_one_of_its_settings_is() -> None:
    """`keep` is an option of `batch`, and the old name of --save-as of `chat`."""
    for key in ("keep", "save_as", "svg", "plot", "output", "to"):
        with settings(f"{key} = 'a'"):
            assert call("ls").error[0] == f"qwenctl.toml:1 '{key}' is not allowed in a file in the current folder"


VALUES: dict[str, tuple[Any, str]] = {
    "switch": (True, "true"), "list": (["a"], "['a']"), "text": ("a", "'a'"), "number": (5, "5"),
    "spool": (1 << 30, "'1G'"), "plot": ("a.svg", "'a.svg'"),
}  # fmt: skip


@pytest.mark.parametrize(("command", "setting"), GUARDED, ids=lambda one: one.name)
def test_guarded_setting_in_the_local_file_is_refused(command: Command, setting: Setting) -> None:
    """Otherwise a downloaded folder could approve the replacement of files."""
    with settings(f"[{command.name}]\n{setting.name} = true"):
        line, hint, code = call("chat").error
    assert (line, code) == (f"qwenctl.toml:2 '{setting.name}' is not allowed in a file in the current folder", 78)
    assert hint == f"use --{setting.name}, or set it in the user's file (see `qwenctl config path`)"
    value, text = VALUES.get(setting.name) or VALUES[setting.kind]
    with settings(user=f"[{command.name}]\n{setting.name} = {text}"):
        assert shown(setting.name)[f"{command.name}.{setting.name}"][0] == value


@pytest.mark.parametrize(
    "sources",
    [
        {"user": '[batch]\nresume = "force"'},
        {"user": 'resume = "force"'},
        {"QWENCTL_BATCH_RESUME": "force"},
        {"QWENCTL_RESUME": "force"},
    ],
    ids=str,
)
def test_old_form_of_force_resume_is_read_and_not_listed(sources: dict[str, str]) -> None:
    with settings(**sources):
        assert call("batch", "none.jsonl").error[0] == "--force-resume: standard output cannot be resumed"
        assert "batch.resume" not in shown("batch")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.cli_only], ids=lambda one: one.name)
def test_command_line_only_option_is_not_a_setting(command: Command) -> None:
    for name in command.cli_only:
        table = f"[{command.name}]\n{name} = true"
        for files in ({"folder": table}, {"user": table}):
            with settings(**files):
                line, hint, code = call("chat").error
            assert (line.split(" ", 1)[1], code) == (f"'{name}' can only be given on the command line", 78)
            assert hint == f"give --{name} when you need it"
        variable = f"QWENCTL_{command.name}_{name}".upper().replace("-", "_")
        with settings(**{variable: "1"}):
            assert f"{command.name}.{name}" not in shown()
            assert call("config", "show").stdout.endswith(f"# not read: {variable}\n")


# Settings refuse text with NUL, which test_settings_errors.py checks.
TEXT_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


@examples(max_examples=100)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "system-prompt": st.text(TEXT_CHARACTERS),
            "temp": st.floats(0, 100),
            "seed": st.integers(0, 2**32 - 1),
            "think": st.booleans(),
            "model": st.text(TEXT_CHARACTERS, min_size=1),
        },
    )
)
def test_config_show_output_is_equivalent_toml(values: dict[str, Any]) -> None:
    table = "".join(f"{key} = {toml_text(value)}\n" for key, value in values.items())
    with settings(f"[chat]\n{table}"):
        text, before = call("config", "show", "chat").stdout, shown("chat")
    found = tomllib.loads(text)["chat"]
    assert {key: found[key] for key in values} == values
    with settings(text):
        assert {name: value for name, (value, _) in shown("chat").items()} == {
            name: value for name, (value, _) in before.items()
        }


def test_settings_guide_lists_sources_in_their_order() -> None:
    section = (ROOT / "docs/guides/settings.md").read_text()
    places = [section.index(word) for word in ("command line", "QWENCTL_CHAT_TEMP", "./qwenctl.toml", "config.toml")]
    assert places == sorted(places)
    assert re.search(r"QWENCTL_TEMP\b", section)
