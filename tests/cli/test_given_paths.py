"""Every option that takes a path takes it as file managers and terminals paste it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from qwenctl.cli import app


def path_parameters() -> Iterator[tuple[str, str]]:
    """The command and the name of each parameter whose declared type is a path."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            annotation = parameter.type_descriptor.annotation
            if Path in (annotation, *get_args(annotation)):
                yield name, parameter.name


def parse(command: str, parameter: str, text: str) -> Any:
    """The value of `parameter` after `text` was given for it."""
    typed: Any = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    words = []
    for one in typed.params:
        if one.name == parameter:
            words += [*one.opts[:1], text] if one.param_type_name == "option" else [text]
        elif one.required:
            words.append("x")
    with typed.make_context(command, words) as context:
        return context.params[parameter]


@pytest.mark.parametrize(
    ("command", "parameter"),
    [
        *path_parameters(),
        ("chat", "image"),
        ("chat", "grammar"),
        ("chat", "json_schema"),
        ("chat", "prefix"),
        ("batch", "source"),
        ("batch", "output"),
        ("quantize", "source"),
    ],
)
def test_pasted_path_is_that_path(command: str, parameter: str, tmp_path: Path) -> None:
    path = tmp_path / "name with 100% space.gguf"
    path.touch()
    escaped = str(path).replace(" ", "\\ ")
    missing = tmp_path / "new file"
    for text, meant in ((path.as_uri(), path), (escaped, path), (f"'{path}'", path), (missing.as_uri(), missing)):
        given = parse(command, parameter, text)
        assert str(given[0] if isinstance(given, (list, tuple)) else given) == str(meant)


def test_prompt_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a b").touch()
    given = parse("chat", "prompt", (tmp_path / "a b").as_uri())
    assert list(given) == [(tmp_path / "a b").as_uri()]
