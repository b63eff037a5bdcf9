"""Help pages fit narrow terminals, and describe every command and option with examples."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer

from qwenctl import cli
from qwenctl.commands.options.examples import EXAMPLES
from qwenctl.commands.options.help_pages import HEADINGS, OLD_NAMES, HelpCommand, HelpGroup, heading_of, long_name
from tests.support.cli_runner import run

COMMANDS = [[], *([name] for name in typer.main.get_group(cli.app).commands)]


def commands_under(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """`group` and every command under it, by the words that call it."""
    found = {path: group}
    for name, command in getattr(group, "commands", {}).items():
        found |= commands_under(command, (*path, name))
    return found


ALL = commands_under(typer.main.get_group(cli.app))
GROUPED = ["pull", "quantize", "chat", "plan", "batch", "bench", "tune"]


def help_of(command: list[str], width: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "qwenctl", *command, "--help"],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "COLUMNS": str(width)},
    )
    return done.stdout.decode()


@pytest.mark.parametrize("width", [52, 80])  # click's help is at least 50 columns wide
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "qwenctl")
def test_help_lines_fit_the_terminal_width(command: list[str], width: int) -> None:
    lines = help_of(command, width).splitlines()
    wide = [line for line in lines if len(line) > width]
    # Only an option whose name and values fill the line may be wider; its text is on the next line.
    assert [line for line in wide if not line.lstrip().startswith("-")] == []
    assert all(len(line.split("  ")) <= 3 for line in wide)


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_every_option_has_help_text(command: list[str]) -> None:
    entry = typer.main.get_group(cli.app).commands[command[0]]
    without_help = [
        option.opts for option in entry.params if option.param_type_name == "option" and not getattr(option, "help", "")
    ]
    assert without_help == []


@pytest.mark.parametrize("width", [52, 80])
def test_command_list_has_whole_sentences(width: int) -> None:
    listed = help_of([], width).partition("Commands:\n")[2].partition("\n\n")[0]
    sentences = re.split(r"(?m)^  (?=\S)", listed)[1:]
    assert [" ".join(sentence.split()).partition(" ")[0] for sentence in sentences] == [
        command[0] for command in COMMANDS[1:]
    ]
    assert all(sentence.rstrip().endswith(".") and "..." not in sentence for sentence in sentences)
    assert width < 80 or all(sentence.rstrip().count("\n") == 0 for sentence in sentences)


@pytest.mark.parametrize("command", GROUPED)
def test_long_help_page_groups_options_under_headings(command: str) -> None:
    page = help_of([command], 80)
    headings = re.findall(r"(?m)^(\w.*):$", page)
    assert headings[0] == "Arguments" or command == "chat"
    assert [heading for heading in headings if heading in HEADINGS] == [
        heading for heading in HEADINGS if heading in headings
    ]
    assert "Options" not in headings
    assert len([heading for heading in headings if heading in HEADINGS]) > 2


@pytest.mark.parametrize("command", GROUPED)
def test_every_option_of_a_long_page_has_a_heading(command: str) -> None:
    options = [option for option in ALL[command,].params if option.param_type_name == "option" and not option.hidden]
    assert [option.opts for option in options if not heading_of(command, long_name(option))] == []


def test_every_name_under_a_heading_is_an_option() -> None:
    names = {
        long_name(option) for command in ALL.values() for option in command.params if option.param_type_name == "option"
    }
    assert set(" ".join(HEADINGS.values()).split()) - names == {"help"}


def test_help_uses_the_width_of_a_wide_terminal() -> None:
    lines = help_of(["chat"], 160).splitlines()
    assert 120 < max(map(len, lines)) <= 160


def test_every_command_has_a_help_page_and_two_examples() -> None:
    assert {path: type(command) for path, command in ALL.items() if path} == {
        path: HelpGroup if hasattr(command, "commands") else HelpCommand for path, command in ALL.items() if path
    }
    assert set(EXAMPLES) == {" ".join(path) for path in ALL}
    assert {len(examples) for examples in EXAMPLES.values()} == {2}


@pytest.mark.parametrize(
    "line", sorted({line for examples in EXAMPLES.values() for _, line in examples if "$(" not in line})
)
def test_help_example_parses(line: str) -> None:
    words = shlex.split(line.partition("| ")[2] or line)
    words = words[1 : words.index(">") if ">" in words else None]
    root, path = ALL[()], ()
    while words and (*path, words[0]) in ALL:
        path = (*path, words.pop(0))
    assert path
    context = ALL[path].make_context(path[-1], words, parent=typer.Context(root, info_name="qwenctl"))
    assert context.params.keys() >= {parameter.name for parameter in context.command.params if parameter.expose_value}


@pytest.mark.parametrize("width", [52, 80])
def test_examples_at_the_end_of_a_page_can_be_pasted(width: int) -> None:
    page = help_of(["plan"], width)
    lines = page.rpartition("Examples:\n")[2].replace("\\\n", "").splitlines()
    pasted = [" ".join(shlex.split(line)) for line in lines if not line.startswith("  #")]
    assert pasted == [line for _, line in EXAMPLES["plan"]]


@pytest.mark.parametrize(("command", "option"), [("chat", "save-as"), ("batch", "share-prefix")])
def test_old_option_name_works_but_is_hidden(command: str, option: str) -> None:
    page = help_of([command], 200)
    assert f"--{option}" in page
    [declaration] = [
        entry for entry in ALL[command,].params if entry.param_type_name == "option" and long_name(entry) == option
    ]
    known = [*declaration.opts, *declaration.secondary_opts]
    for old in OLD_NAMES[option]:
        assert old in known
        assert not re.search(rf"{old}\b(?!-)", page)
    offered = [entry.value for entry in ALL[command,].shell_complete(typer.Context(ALL[command,]), "--")]
    assert f"--{option}" in offered
    assert not set(OLD_NAMES[option]) & set(offered)


def test_resume_option_is_shown_only_by_chat() -> None:
    shown = [
        (path, option.help)
        for path, command in ALL.items()
        for option in command.params
        if "--resume" in option.opts and not option.hidden
    ]
    assert shown == [(("chat",), "Resume a saved conversation; without NAME, the latest one.")]


@pytest.mark.parametrize("command", ["", "chat", "ls", "sessions show", "config"])
def test_help_is_asked_for_in_three_ways(command: str) -> None:
    words = command.split()
    page = run(*words, "--help")
    assert page.returncode == 0
    assert run(*words, "-h") == page
    assert run("help", *words) == page


def test_version_has_a_short_option() -> None:
    assert run("-V") == run("--version")


def test_short_name_of_the_hub_option_is_not_help() -> None:
    assert run("chat", "-hf", "missing.gguf", "hi").returncode == 66
