"""What every setting is and why, for a small program of two commands: rows, TOML, and the file to begin with."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.settings.origins import Row, effective_rows, example_file, format_toml, toml_text, write_new
from qwenctl.settings.resolve import Settings, resolve
from qwenctl.settings.rules import Command, collect_options
from qwenctl.settings.toml import TomlFile


def chat(
    temp: Annotated[float, typer.Option("--temp", help="How random answers are.")] = 0.7,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N")] = None,
    tools: Annotated[list[Path] | None, typer.Option("--tools", metavar="FILE")] = None,
) -> None:
    """Chat."""


def batch(temp: Annotated[float, typer.Option("--temp")] = 0.5) -> None:
    """Batch."""


@pytest.fixture(scope="module")
def root() -> Any:
    app = typer.Typer()
    app.command()(chat)
    app.command()(batch)
    return typer.main.get_command(app)


@pytest.fixture(scope="module")
def commands(root: Any) -> tuple[Command, ...]:
    return collect_options(root)


def resolved(commands: tuple[Command, ...], environment: dict[str, str]) -> Settings:
    """The settings without files, with these variables."""
    return resolve(commands, TomlFile(Path("qwenctl.toml")), TomlFile(Path("config.toml")), environment)


def found(root: Any, commands: tuple[Command, ...], *words: str, **variables: str) -> dict[tuple[str, str], Row]:
    rows = effective_rows(root, commands, resolved(commands, variables), words)
    return {(row.command, row.key): row for row in rows}


def test_rows_without_words_have_every_setting_and_its_default(root: Any, commands: tuple[Command, ...]) -> None:
    rows = found(root, commands)
    assert {key: (row.value, row.origin) for key, row in rows.items()} == {
        ("chat", "temp"): (0.7, "default"),
        ("chat", "seed"): (None, "default"),
        ("chat", "tools"): (None, "default"),
        ("batch", "temp"): (0.5, "default"),
    }


def test_row_from_the_environment_names_its_variable(root: Any, commands: tuple[Command, ...]) -> None:
    rows = found(root, commands, QWENCTL_TEMP="0.1", QWENCTL_BATCH_TEMP="0.2")
    assert (rows["chat", "temp"].value, rows["chat", "temp"].origin) == (0.1, "QWENCTL_TEMP")
    assert (rows["batch", "temp"].value, rows["batch", "temp"].origin) == (0.2, "QWENCTL_BATCH_TEMP")


@pytest.mark.parametrize(
    ("word", "keys"),
    [
        ("chat", {("chat", "temp"), ("chat", "seed"), ("chat", "tools")}),
        ("temp", {("chat", "temp"), ("batch", "temp")}),
        ("chat.temp", {("chat", "temp")}),
    ],
)
def test_rows_are_chosen_by_command_key_or_both(
    word: str, keys: set[tuple[str, str]], root: Any, commands: tuple[Command, ...]
) -> None:
    assert set(found(root, commands, word)) == keys


def test_unknown_word_is_refused_with_the_nearest_one(root: Any, commands: tuple[Command, ...]) -> None:
    with pytest.raises(QwenctlError, match="no setting 'tmep'") as caught:
        found(root, commands, "tmep")
    assert caught.value.hint == "did you mean 'temp'?"


def test_command_line_wins_over_the_environment(root: Any, commands: tuple[Command, ...]) -> None:
    rows = found(root, commands, "chat", "--temp", "0.9", "--tools", "a.py", QWENCTL_TEMP="0.1", QWENCTL_SEED="3")
    assert {key[1]: (row.value, row.origin) for key, row in rows.items()} == {
        "temp": (0.9, "command line"), "seed": (3, "QWENCTL_SEED"), "tools": (["a.py"], "command line"),
    }  # fmt: skip


def test_command_line_of_no_command_is_refused(root: Any, commands: tuple[Command, ...]) -> None:
    with pytest.raises(QwenctlError, match="no command 'talk'"):
        found(root, commands, "talk", "--temp", "0.9")


def test_toml_has_tables_and_origins_as_comments_and_parses_to_the_values() -> None:
    rows = [Row("chat", "temp", 0.7, "default"), Row("chat", "seed", None, "default"), Row("batch", "np", 2, "FILE:1")]
    text = format_toml(rows, ["QWENCTL_X"], origin=True)
    assert tomllib.loads(text) == {"chat": {"temp": 0.7}, "batch": {"np": 2}}
    assert text.splitlines() == [
        "[chat]", "temp = 0.7  # default", "# seed is not set", "", "[batch]", "np = 2      # FILE:1", "",
        "# not read: QWENCTL_X",
    ]  # fmt: skip
    assert "#" not in format_toml(rows[:1], [], origin=False)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.booleans() | st.integers(-(2**63), 2**63 - 1))
def test_value_written_as_toml_is_read_back_equal(value: object) -> None:
    assert tomllib.loads(f"x = {toml_text(value)}") == {"x": value}


def test_example_file_changes_nothing_and_shows_meaning_and_default_of_each(commands: tuple[Command, ...]) -> None:
    text = example_file(commands)
    assert tomllib.loads(text) == {"chat": {}, "batch": {}}
    assert "# How random answers are.\n# temp = 0.7\n" in text
    assert [line for line in text.splitlines() if " = " in line] == [
        "# temp = 0.7", "# seed = N", '# tools = ["FILE"]', "# temp = 0.5",
    ]  # fmt: skip


def test_new_file_is_private_and_an_old_one_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "config.toml"
    write_new(path, "a = 1\n")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("a = 1\n", 0o600)
    with pytest.raises(QwenctlError, match="already exists") as caught:
        write_new(path, "b = 2\n")
    assert (caught.value.code, caught.value.hint) == (ExitCode.CANNOT_CREATE, f"rm {path}")
    assert path.read_text() == "a = 1\n"


def test_file_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QwenctlError, match="cannot write"):
        write_new(tmp_path / "file" / "config.toml", "")
