"""Nothing given is not the same as not given: no option or argument of any command takes an empty text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from qwenctl.cli import app
from tests.support.cli_runner import outcome

# The words of a prompt, and the name of a conversation to resume.
MAY_BE_EMPTY = {("chat", "prompt"), ("chat", "resume"), ("batch", "resume")}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_empty_option_or_argument_is_refused_by_its_name(path: tuple[str, ...]) -> None:
    for parameter in COMMANDS[path].params:
        if getattr(parameter, "is_flag", False) or (path[-1], parameter.name) in MAY_BE_EMPTY:
            continue
        option = parameter.opts[-1]
        is_option = parameter.param_type_name == "option"
        for words in ([option, ""], [option, " "]) if is_option else ([""], [" "]):
            message, hint, code = outcome(*path, *words)
            assert (message.endswith(" is empty"), code) == (True, 2), (words, message)
            assert hint == "leave it out, or give it a value"
            assert not is_option or message.split()[0] in parameter.opts


@pytest.mark.parametrize("words", [["--output="], ["-o", ""], ["--output", " "]])
def test_empty_output_is_not_the_current_folder(words: list[str]) -> None:
    assert outcome("quantize", "MODEL", *words)[0] == "--output is empty"


def test_word_that_ends_like_an_option_is_a_word() -> None:
    assert outcome("chat", "-m", "none.gguf", "1 + 1 =", "")[0] == "no such file: none.gguf"
