"""The documents match the program: commands, exit codes, links, packages. Each check is also shown to fail."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.generate.command_line import make_context, walk
from docs.generate.pages import MAN_FOLDER, generated_pages, stale_pages
from quantize.formatting import parse_bytes
from quantize.plan import QuantizeOptions
from qwenctl import __version__, cli
from qwenctl.commands.options.common import with_optional_values
from qwenctl.errors import ExitCode
from qwenctl.machine.profile import machine_from_sizes
from qwenctl.placement.constraints import PlacementConstraints
from qwenctl.placement.planner import make_plan
from qwenctl.placement.tensor_inventory import from_checkpoint
from tests.support.checkpoints import make_sparse
from tests.support.paths import ROOT
from tests.support.qwen35_layout import PUBLISHED
from tests.support.source_tree import PACKAGES

README = (ROOT / "README.md").read_text()
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in ROOT_PAGES), *sorted((ROOT / "docs").rglob("*.md"))]
README_BYTES, MAP_LINES = 8192, 20
ORDER = (
    "# qwenctl", "## What it does that others do not", "## Which model on which machine", "## Install",
    "## First answer", "## Commands", "## How it works", "## Links",
)  # fmt: skip
COMMANDS = typer.main.get_command(cli.app)
OUTPUT = ("text", "json", "toml", "python", "mermaid")  # info strings of blocks without command lines


def page_ids() -> list[str]:
    return [str(path.relative_to(ROOT)) for path in PAGES]


def without_blocks(text: str) -> str:
    """`text` without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: info string and content, without the indentation of a list."""
    for indent, info, content in re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield info, "\n".join(line.removeprefix(indent) for line in content.splitlines())


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of each `qwenctl` command in a page's blocks: at the start of a line, after `$`, or in a pipe."""
    for info, content in blocks(text):
        if info in OUTPUT:
            continue
        for line in content.replace("\\\n", " ").splitlines():
            if info == "console" and not line.startswith("$ "):
                continue
            yield from _calls(line.removeprefix("$ "))


def _calls(line: str) -> Iterator[list[str]]:
    if not re.search(r"(^|\| )qwenctl ", line):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "|"]:
        if not set(word) <= set("|;&<>"):
            words.append(word)
        elif words:
            if words[0] == "qwenctl" and (len(words) > 1):
                yield words[1:]
            words = []


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program does, without running it. Raises the parser's errors."""
    with suppress(typer.Exit):  # --version and the like
        _parse(arguments)


def _parse(arguments: list[str]) -> None:
    given = with_optional_values([word for word in arguments if word != "--debug"])
    command, path, context = COMMANDS, (), None
    while True:
        context = command.make_context(" ".join(("qwenctl", *path)), given, parent=context)
        if not hasattr(command, "commands"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, given = command.resolve_command(context, rest)
        path = (*path, name)


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, in the form that code hosts use."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    """Links of a page to missing files or anchors."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in slugs(text if file == path else file.read_text())):
            broken.append(target)
    return broken


def commands_without(texts: Iterable[str]) -> list[str]:
    """The commands that are named in none of `texts`."""
    whole = "\n".join(texts)
    return [name for name in COMMANDS.commands if f"qwenctl {name}" not in whole]


def exit_codes_not_in(text: str) -> list[ExitCode]:
    rows = {int(code) for code in re.findall(r"^\| (\d+) \| \S", text, re.MULTILINE)}
    return [code for code in ExitCode if code not in rows or not code.meaning]


def packages_of_map(text: str) -> list[str]:
    """The folders named in the map of `text`: the block whose first line is a package."""
    return re.findall(r"(?<!\S)([\w/]+)/(?!\S)", _map(text))


def _map(text: str) -> str:
    return next(block for block in text.split("```") if block.lstrip("\n").startswith(f"{PACKAGES[0]}/"))


def packages() -> set[str]:
    """The source folders, down to the packages of `qwenctl`."""
    inner = {path.parent.name for path in (ROOT / "qwenctl").glob("*/__init__.py")}
    return {*PACKAGES, *inner}


def missing_sources(text: str) -> list[str]:
    """Source files and folders that a page names but that do not exist."""
    named = re.findall(r"`((?:quantize|qwenctl|tests)/[\w/.-]+)`", text)
    return [name for name in named if not (ROOT / name).exists()]


def newest_version(changelog: str) -> str | None:
    found = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    return found and found.group(1)


def in_order(text: str, headings: Iterable[str]) -> bool:
    lines = text.splitlines()
    places = [lines.index(heading) if heading in lines else -1 for heading in headings]
    return -1 not in places and places == sorted(places)


def test_readme_is_short() -> None:
    assert len(README.encode()) <= README_BYTES
    assert len(_map(README).strip().splitlines()) <= MAP_LINES


def test_readme_names_the_main_commands_near_its_top() -> None:
    top = "\n".join(README.splitlines()[:12])
    assert "make run" in top
    assert "make test" in top


def test_readme_names_and_links_every_command() -> None:
    assert commands_without([README]) == []
    assert commands_without([""]) != []
    rows = re.findall(r"^\| \[`qwenctl (\w+)[^`]*`\]\(docs/[^)]+\) \|", README, re.MULTILINE)
    assert set(rows) == set(COMMANDS.commands)


def test_every_command_has_a_section_in_the_reference() -> None:
    anchors = slugs((ROOT / "docs/reference/cli.md").read_text())
    for path, command in walk(COMMANDS, ()):
        assert "-".join(("qwenctl", *path)) in anchors
        assert make_context(command, path).info_name == " ".join(("qwenctl", *path))


def test_every_command_has_a_guide() -> None:
    guides = [path.read_text() for path in [*(ROOT / "docs/guides").glob("*.md"), ROOT / "docs/install.md"]]
    assert commands_without(guides) == []


def test_every_exit_code_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text()
    assert exit_codes_not_in(text) == []
    assert exit_codes_not_in(text.replace("| 74 | ", "| 74 |")) == [ExitCode.IO]


def test_readme_map_matches_the_packages() -> None:
    named = packages_of_map(README)
    assert set(named) == packages()
    assert len(named) == len(set(named))
    assert len(packages_of_map("```\nquantize/ a\nqwenctl/\n  a/ b/  c and d/e\n```")) == 4


def test_readme_headings_are_in_order() -> None:
    assert in_order(README, ORDER)
    assert not in_order(README, reversed(ORDER))


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("qwenctl") == __version__
    assert newest_version((ROOT / "CHANGELOG.md").read_text()) == __version__
    assert newest_version("## [Unreleased]\n## [0.2.0]\n## [0.1.0]") == "0.2.0"


def test_wheel_includes_a_man_page_for_every_command() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]
    assert settings["force-include"] == {MAN_FOLDER: "${SKBUILD_DATA_DIR}/share/man/man1"}
    names = {"-".join(("qwenctl", *path)) for path, _ in walk(COMMANDS, ())}
    assert {path.stem for path in (ROOT / MAN_FOLDER).glob("*.1")} == names


def test_generated_pages_are_up_to_date() -> None:
    pages = generated_pages(ROOT)
    assert stale_pages(ROOT, pages) == []
    assert stale_pages(ROOT, {**pages, "docs/reference/cli.md": ""}) == ["docs/reference/cli.md"]
    gone = {path: text for path, text in pages.items() if path != "docs/man/qwenctl-chat.1"}
    assert stale_pages(ROOT, gone) == ["docs/man/qwenctl-chat.1"]


@pytest.mark.parametrize("path", PAGES, ids=page_ids())
def test_command_lines_in_a_page_can_be_parsed(path: Path) -> None:
    for arguments in command_lines(path.read_text()):
        parse(arguments)


def test_invalid_command_lines_are_found() -> None:
    page = "```sh\nx | qwenctl chat --tmep 1 > y\n```\n```console\n$ qwenctl sessions shwo a\nqwenctl nothing\n```"
    found = list(command_lines(page))
    assert found == [["chat", "--tmep", "1"], ["sessions", "shwo", "a"]]
    for arguments in (*found, ["chat", "-c", "many"], ["batch", "--order", "none"], ["nothing"]):
        with pytest.raises(Exception, match=r".") as raised:
            parse(arguments)
        assert type(raised.value).__module__.startswith("typer.")
    assert sum(1 for path in PAGES for _ in command_lines(path.read_text())) > 100


@pytest.mark.parametrize("path", PAGES, ids=page_ids())
def test_links_of_a_page_resolve(path: Path) -> None:
    assert broken_links(path, path.read_text()) == []
    assert broken_links(path, "[a](nowhere.md) [b](#not-a-heading) `[c](no.md)`") == ["nowhere.md", "#not-a-heading"]


@pytest.mark.parametrize("path", PAGES, ids=page_ids())
def test_source_files_named_in_a_page_exist(path: Path) -> None:
    assert missing_sources(path.read_text()) == []
    assert missing_sources("`qwenctl/nothing.py` and `qwenctl/cli.py`") == ["qwenctl/nothing.py"]


def test_protocol_page_names_the_messages() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "qwenctl/protocol").glob("*.py"))
    table = (ROOT / "docs/internals/protocol.md").read_text()
    requests = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE)
    named = re.findall(r"`([A-Z]\w+)`", "\n".join(requests))
    assert len(named) > 10
    assert [name for name in named if not re.search(rf"^class {name}\b", source, re.MULTILINE)] == []


def speeds_in_readme() -> dict[tuple[str, str, str], tuple[int, int]]:
    """Decode and prefill tokens per second in the table of machines, by model, GPU memory and RAM."""
    rows = re.findall(r"^\| (\S+B)-A\d+B \| ([\dG,]+) \| (\d+G) \| ([\d,]+) \| ([\d,]+) \|$", README, re.MULTILINE)
    return {(model, gpu, ram): (_whole(decode), _whole(prefill)) for model, gpu, ram, decode, prefill in rows}


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def test_readme_speeds_match_the_plan_command(tmp_path: Path) -> None:
    rows = speeds_in_readme()
    assert len(rows) >= 5
    inventories: dict[str, Any] = {
        model: from_checkpoint(make_sparse(tmp_path / model, PUBLISHED[model]), QuantizeOptions("Q4_K_M"))
        for model in {model for model, _, _ in rows}
    }
    for (model, gpu, ram), speeds in rows.items():
        machine = machine_from_sizes([parse_bytes(size) for size in gpu.split(",")], parse_bytes(ram))
        inventory = inventories[model]
        usual = PlacementConstraints(mtp=True, draft="auto", vision_bytes=inventory.vision_bytes)
        found = make_plan(inventory, machine, usual).forecast
        assert (round(found.decode), round(found.prefill)) == speeds, (model, gpu, ram)


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "reference/cli.html").is_file()
