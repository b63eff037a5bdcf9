"""Plain values of options are converted as typer converts them, without pydantic."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwenctl.commands.options.convert_values import convert_plain_values

NAMES = "--text --number --ranged --share --choice --path --parsed --many --paths --readable --no-flag".split()
# What options are given: valid values, values out of bounds, no numbers, and what no text or path may hold.
VALUES = ["", "auto", "AUTO", "on", "0", "1", "64", "65", "-1", "1.5", "nan", "1e400", " 7", "1_0", "x", "ä", "\udcff",
          "a\0b", ".", "./", "/", "/no/such", "-", "--"]  # fmt: skip


def _parse(text: Any) -> int:
    if text == "x":
        raise ValueError("x is no number")
    return len(str(text))


def _command(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument()] = None,
    text: Annotated[str | None, typer.Option("--text")] = None,
    number: Annotated[int, typer.Option("--number")] = 3,
    ranged: Annotated[int | None, typer.Option("--ranged", min=1, max=64)] = None,
    share: Annotated[float, typer.Option("--share", min=0)] = 0.5,
    choice: Annotated[Literal["auto", "on"], typer.Option("--choice")] = "auto",
    path: Annotated[Path | None, typer.Option("--path")] = None,
    parsed: Annotated[int | None, typer.Option("--parsed", parser=_parse)] = None,
    many: Annotated[list[str] | None, typer.Option("--many")] = None,
    paths: Annotated[list[Path], typer.Option("--paths")] = [Path("x")],  # noqa: B006 - as typer wants it
    readable: Annotated[Path | None, typer.Option("--readable", exists=True, dir_okay=False)] = None,
    flag: Annotated[bool, typer.Option("--flag/--no-flag")] = True,
) -> None:
    """Everything that options are declared with."""


@functools.cache
def _root(_plain: bool) -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(_command)
    return typer.main.get_command(app)


def outcome(root: Any, words: list[str]) -> object:
    """The values that `root` makes of a command line with their types, or the text of its error."""
    try:
        values = root.make_context("x", list(words)).params
    except typer.BadParameter as error:
        return error.format_message()
    except Exception as error:  # noqa: BLE001 - compared with typer's
        return type(error), str(error)
    return {name: (type(value), repr(value)) for name, value in values.items()}


LINES = st.lists(st.one_of(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(max_size=3)),
                           st.tuples(st.sampled_from(VALUES))), max_size=5)  # fmt: skip


@given(LINES)
@example([])
@example([("--paths", "."), ("--paths", "\udcff")])
@settings(max_examples=300)
def test_values_and_errors_are_as_those_of_typer(line: list[tuple[str, ...]]) -> None:
    words = [word for option in line for word in option]
    for parameter in _root(True).params:
        parameter._runtime_param = None  # after a value that is not plain, this is typer's own
    convert_plain_values(_root(True))
    assert outcome(_root(True), words) == outcome(_root(False), words)


def test_conversion_that_typer_keeps_elsewhere_is_left_alone() -> None:
    class Parameter:
        pass

    class Root:
        params = (Parameter(),)

    convert_plain_values(Root())
    assert vars(Root.params[0]) == {}
