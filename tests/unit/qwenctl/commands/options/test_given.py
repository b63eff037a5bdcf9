"""Options that were given on a command line: their names, and those that say nothing."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer

from qwenctl.commands.options.given import given_options, refuse_beside, refuse_empty, refuse_without
from qwenctl.errors import QwenctlError


def context_of(*arguments: str) -> typer.Context:
    app = typer.Typer()
    found: list[typer.Context] = []

    @app.command()
    def command(
        context: typer.Context,
        name: Annotated[str, typer.Option("-n", "--name")] = "x",
        think: Annotated[bool, typer.Option("--think/--no-think")] = True,
    ) -> None:
        found.append(context)

    typer.main.get_command(app).main(list(arguments), standalone_mode=False)
    return found[0]


def test_given_options_are_named_in_full() -> None:
    assert given_options(context_of()) == {}
    assert given_options(context_of("-n", "x", "--no-think")) == {"name": "--name", "think": "--no-think"}


def test_options_that_say_nothing_or_have_no_effect_are_refused() -> None:
    refuse_empty(context_of("-n", "y"))
    with pytest.raises(QwenctlError, match="--name is empty"):
        refuse_empty(context_of("-n", " "))
    with pytest.raises(QwenctlError, match="--name has no effect without --more"):
        refuse_without(context_of("-n", "y"), "--more", ("name",))
    with pytest.raises(QwenctlError, match="--name and --more cannot be used together"):
        refuse_beside(context_of("-n", "y"), "--more", ("name",))
