"""Help pages: options under headings, old names left out, and examples that a shell can read."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenctl.commands.options.examples import EXAMPLES
from qwenctl.commands.options.help_pages import (
    HEADINGS,
    OTHERS,
    HelpCommand,
    HelpGroup,
    _command_lines,
    heading_of,
    long_name,
    old_names,
)


def chat(
    model: Annotated[str, typer.Option("-m", "--model", help="The model.")] = "",
    temp: Annotated[float, typer.Option("--temp", help="How random.")] = 0.7,
    seed: Annotated[int, typer.Option("--seed", help="The seed.")] = 0,
    save: Annotated[str, typer.Option("--save-as", "--keep", help="The name.")] = "",
) -> None:
    """Chat with a model."""


def many(
    model: Annotated[str, typer.Option("--model")] = "",
    temp: Annotated[float, typer.Option("--temp")] = 0.7,
    top_k: Annotated[int, typer.Option("--top-k")] = 0,
    top_p: Annotated[float, typer.Option("--top-p")] = 0,
    min_p: Annotated[float, typer.Option("--min-p")] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    image: Annotated[str, typer.Option("--image")] = "",
    resume: Annotated[str, typer.Option("--resume")] = "",
    wait: Annotated[str, typer.Option("--wait")] = "",
    offline: Annotated[bool, typer.Option("--offline")] = False,
    output: Annotated[str, typer.Option("--output")] = "",
    quiet: Annotated[bool, typer.Option("--quiet")] = False,
    secret: Annotated[bool, typer.Option("--secret-option")] = False,
) -> None:
    """Have more options than a page shows in one list."""


@pytest.fixture(scope="module")
def root() -> Any:
    app = typer.Typer(cls=HelpGroup, rich_markup_mode=None)
    app.command(cls=HelpCommand)(chat)
    app.command(cls=HelpCommand)(many)
    return typer.main.get_command(app)


def page(root: Any, name: str, monkeypatch: pytest.MonkeyPatch, columns: int = 100) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    command = root.commands[name]
    return str(command.get_help(typer.Context(command, typer.Context(root, info_name="qwenctl"), name)))


def test_page_of_few_options_has_one_list_and_examples(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(root, "chat", monkeypatch)
    assert "Options:" in text
    assert "Sampling:" not in text
    assert text.index("Options:") < text.index("Examples:")
    assert "  # Start a chat:\n  qwenctl chat -m qwen.gguf" in text


def test_page_of_many_options_has_headings_in_their_order(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = page(root, "many", monkeypatch).splitlines()
    headings = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Model", "Sampling", "Conversation", "Download", "Output", "Options"]
    assert "--secret-option" in "\n".join(lines[lines.index("Options:") :])


def test_old_name_of_an_option_is_on_no_page(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    option = next(one for one in root.commands["chat"].params if one.name == "save")
    assert (long_name(option), old_names(option)) == ("save-as", ("--keep",))
    text = page(root, "chat", monkeypatch)
    assert "--save-as" in text
    assert "--keep" not in text


def test_page_is_as_wide_as_the_terminal(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(map(len, page(root, "chat", monkeypatch, columns=60).splitlines())) <= 60


def test_page_of_the_program_lists_its_commands_with_their_summaries(
    root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = root.get_help(typer.Context(root, info_name="qwenctl"))
    assert ["chat", "Chat with a model."] in [line.split(maxsplit=1) for line in text.splitlines()]
    assert text.index("Commands:") < text.index("Examples:")


@pytest.mark.parametrize(
    ("command", "option", "heading"),
    [("chat", "temp", "Sampling"), ("chat", "prefix", "Conversation"), ("batch", "prefix", "Input"), ("x", "y", "")],
)
def test_heading_depends_on_the_option_and_in_some_commands_on_them(command: str, option: str, heading: str) -> None:
    assert heading_of(command, option) == heading


def test_no_option_stands_under_two_headings() -> None:
    names = [name for text in HEADINGS.values() for name in text.split()]
    assert len(names) == len(set(names))
    assert set(OTHERS.values()) <= set(HEADINGS)


@settings(max_examples=50)
@given(st.lists(st.text("abc-", min_size=1, max_size=30), min_size=1, max_size=20), st.integers(20, 120))
def test_command_line_on_several_lines_is_the_same_to_a_shell(words: list[str], width: int) -> None:
    lines = _command_lines(" ".join(words), width)
    continued = "\n".join(lines).replace("\\\n", "")  # as a shell joins lines
    assert shlex.split(continued) == words


def test_examples_call_the_command_that_they_belong_to() -> None:
    for path, examples in EXAMPLES.items():
        lines = [line for _, line in examples]
        assert any(f"qwenctl {path}".strip() in line for line in lines), path
        assert all(what.endswith(":") for what, _ in examples), path
        for line in lines:
            shlex.split(line)
