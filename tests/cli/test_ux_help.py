"""Help can be read on a narrow terminal, and tells what the commands and their options do."""

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

COMMANDS = [[], *([name] for name in typer.main.get_group(cli.app).commands)]


def below(group: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command under `group`, and itself, by the words that call it."""
    found = {path: group}
    for name, command in getattr(group, "commands", {}).items():
        found |= below(command, (*path, name))
    return found


ALL = below(typer.main.get_group(cli.app))
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


@pytest.mark.parametrize("width", [52, 80])  # the library writes no narrower than 50
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "qwenctl")
def test_no_line_is_wider_than_the_terminal(command: list[str], width: int) -> None:
    lines = help_of(command, width).splitlines()
    wide = [line for line in lines if len(line) > width]
    # An option whose name and values fill the line has its text on the next; nothing else may stick out.
    assert [line for line in wide if not line.lstrip().startswith("-")] == []
    assert all(len(line.split("  ")) <= 3 for line in wide)


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_every_option_says_what_it_does(command: list[str]) -> None:
    found = typer.main.get_group(cli.app).commands[command[0]]
    silent = [one.opts for one in found.params if one.param_type_name == "option" and not getattr(one, "help", "")]
    assert silent == []


@pytest.mark.parametrize("width", [52, 80])
def test_a_list_of_commands_has_whole_sentences(width: int) -> None:
    listed = help_of([], width).partition("Commands:\n")[2].partition("\n\n")[0]
    sentences = re.split(r"(?m)^  (?=\S)", listed)[1:]
    assert [" ".join(one.split()).partition(" ")[0] for one in sentences] == [command[0] for command in COMMANDS[1:]]
    assert all(one.rstrip().endswith(".") and "..." not in one for one in sentences)
    assert width < 80 or all(one.rstrip().count("\n") == 0 for one in sentences)


@pytest.mark.parametrize("command", GROUPED)
def test_many_options_are_under_headings(command: str) -> None:
    page = help_of([command], 80)
    headings = re.findall(r"(?m)^(\w.*):$", page)
    assert headings[0] == "Arguments" or command == "chat"
    assert [one for one in headings if one in HEADINGS] == [one for one in HEADINGS if one in headings]
    assert "Options" not in headings
    assert len([one for one in headings if one in HEADINGS]) > 2


@pytest.mark.parametrize("command", GROUPED)
def test_every_option_of_a_long_page_has_a_heading(command: str) -> None:
    options = [one for one in ALL[command,].params if one.param_type_name == "option" and not one.hidden]
    assert [one.opts for one in options if not heading_of(command, long_name(one))] == []


def test_every_name_under_a_heading_is_an_option() -> None:
    names = {long_name(one) for command in ALL.values() for one in command.params if one.param_type_name == "option"}
    assert set(" ".join(HEADINGS.values()).split()) - names == {"help"}


def test_a_wide_terminal_is_used() -> None:
    lines = help_of(["chat"], 160).splitlines()
    assert 120 < max(map(len, lines)) <= 160


def test_every_command_has_such_a_page_and_two_examples() -> None:
    assert {path: type(command) for path, command in ALL.items() if path} == {
        path: HelpGroup if hasattr(command, "commands") else HelpCommand for path, command in ALL.items() if path
    }
    assert set(EXAMPLES) == {" ".join(path) for path in ALL}
    assert {len(examples) for examples in EXAMPLES.values()} == {2}


@pytest.mark.parametrize(
    "line", sorted({line for examples in EXAMPLES.values() for _, line in examples if "$(" not in line})
)
def test_an_example_can_be_typed(line: str) -> None:
    words = shlex.split(line.partition("| ")[2] or line)
    words = words[1 : words.index(">") if ">" in words else None]
    root, path = ALL[()], ()
    while words and (*path, words[0]) in ALL:
        path = (*path, words.pop(0))
    assert path
    context = ALL[path].make_context(path[-1], words, parent=typer.Context(root, info_name="qwenctl"))
    assert context.params.keys() >= {one.name for one in context.command.params if one.expose_value}


@pytest.mark.parametrize("width", [52, 80])
def test_examples_end_a_page_and_can_be_pasted(width: int) -> None:
    page = help_of(["plan"], width)
    lines = page.rpartition("Examples:\n")[2].replace("\\\n", "").splitlines()
    pasted = [" ".join(shlex.split(line)) for line in lines if not line.startswith("  #")]
    assert pasted == [line for _, line in EXAMPLES["plan"]]


@pytest.mark.parametrize(("command", "option"), [("chat", "save-as"), ("batch", "share-prefix")])
def test_an_old_name_works_and_is_not_shown(command: str, option: str) -> None:
    page = help_of([command], 200)
    assert f"--{option}" in page
    [declared] = [one for one in ALL[command,].params if one.param_type_name == "option" and long_name(one) == option]
    known = [*declared.opts, *declared.secondary_opts]
    for old in OLD_NAMES[option]:
        assert old in known
        assert not re.search(rf"{old}\b(?!-)", page)
    offered = [one.value for one in ALL[command,].shell_complete(typer.Context(ALL[command,]), "--")]
    assert f"--{option}" in offered
    assert not set(OLD_NAMES[option]) & set(offered)


def test_resume_means_a_saved_conversation_wherever_it_is_shown() -> None:
    shown = [
        (path, one.help)
        for path, command in ALL.items()
        for one in command.params
        if "--resume" in one.opts and not one.hidden
    ]
    assert shown == [(("chat",), "Resume a saved conversation; without NAME, the latest one.")]
