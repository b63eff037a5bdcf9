"""Help can be read on a narrow terminal, and tells what the commands and their options do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

from qwenctl import cli

COMMANDS = [[], *([name] for name in typer.main.get_group(cli.app).commands)]


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
