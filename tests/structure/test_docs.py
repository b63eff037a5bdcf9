"""The documents say what the program does: commands, exit codes, files, version. Each check is shown to fail."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

import typer

from qwenctl import __version__, cli
from qwenctl.errors import ExitCode
from tests.source_tree import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ORDER = ("# qwenctl", "## Two commands", "## What it looks like", "## Install", "## Commands", "## How it works")


def commands_not_in(text: str) -> list[str]:
    names = typer.main.get_group(cli.app).commands
    return [name for name in names if f"qwenctl {name}" not in text]


def exit_codes_not_in(text: str) -> list[ExitCode]:
    rows = {int(code) for code in re.findall(r"^\| (\d+) \| \S", text, re.MULTILINE)}
    return [code for code in ExitCode if code not in rows]


def packages_of_map(text: str) -> list[str]:
    """The folders that the map of `text` names, a block whose first line is a package."""
    block = next(block for block in text.split("```") if block.lstrip("\n").startswith(f"{PACKAGES[0]}/"))
    return re.findall(r"(?<!\S)([\w/]+)/(?!\S)", block)


def packages() -> set[str]:
    """The folders of the sources down to the packages of `qwenctl`."""
    inner = {path.parent.name for path in (ROOT / "qwenctl").glob("*/__init__.py")}
    return {*PACKAGES, *inner}


def newest_version(changelog: str) -> str | None:
    found = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    return found and found.group(1)


def in_order(text: str, headings: Iterable[str]) -> bool:
    lines = text.splitlines()
    places = [lines.index(heading) if heading in lines else -1 for heading in headings]
    return -1 not in places and places == sorted(places)


def test_every_command_is_in_the_readme() -> None:
    assert commands_not_in(README) == []
    assert commands_not_in("") != []


def test_every_exit_code_is_in_the_readme() -> None:
    assert exit_codes_not_in(README) == []
    assert exit_codes_not_in(README.replace("| 74 | ", "| 74 |")) == [ExitCode.IO]


def test_the_map_in_the_readme_is_that_of_the_packages() -> None:
    named = packages_of_map(README)
    assert set(named) == packages()
    assert len(named) == len(set(named))
    assert len(packages_of_map("```\nquantize/ a\nqwenctl/\n  a/ b/  c and d/e\n```")) == 4


def test_the_readme_keeps_its_order() -> None:
    assert in_order(README, ORDER)
    assert not in_order(README, reversed(ORDER))


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("qwenctl") == __version__
    assert newest_version((ROOT / "CHANGELOG.md").read_text()) == __version__
    assert newest_version("## [Unreleased]\n## [0.2.0]\n## [0.1.0]") == "0.2.0"
