"""Each command that the program prints works when it is pasted: in a shell, and by the program's own parser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

from qwenctl.cli import app
from qwenctl.commands.models.pull import _check_request, _one_name
from qwenctl.commands.models.verify import _repair_command
from qwenctl.commands.options.local_model import find_one_installed
from qwenctl.errors import QwenctlError, command_line, quote
from qwenctl.hub.local.hf_cache import RepoCache
from qwenctl.hub.local.installed import InstalledModel
from qwenctl.hub.local.resolve_model import find_matches, resolve_model_path
from qwenctl.hub.repository.listing import Listing, RemoteFile
from qwenctl.hub.repository.model_name import parse_name
from qwenctl.hub.repository.quantizations import choose_quant
from qwenctl.hub.select.target import PullRequest
from qwenctl.models.gguf_check import check_model_file

# What a shell or the parser could misread: spaces, quotes, globs, variables, comments, options, other scripts.
NAMES = st.text(st.sampled_from("aZ9 -_.'\"$`!*?[]{}()<>|&;#~=,+%@\\ä模"), min_size=1, max_size=12).filter(
    lambda name: name.strip(". ") == name
)


INSTALLED = "qwenctl.hub.local.installed.find_installed_models"
COMMANDS = get_command(app)  # made once: it takes a while


def parse(line: str) -> list[str]:
    """The words of a printed line, which the program's own parser accepts."""
    program, *words = shlex.split(line)
    assert program == "qwenctl"
    context = COMMANDS.make_context("qwenctl", list(words), resilient_parsing=True)
    name, found, rest = COMMANDS.resolve_command(context, list(words))
    found.make_context(name, rest, parent=context)
    return words


def commands_in(hint: str) -> list[str]:
    """The commands in a hint: all of it, or what stands between backquotes."""
    return [hint] if hint.startswith("qwenctl ") else re.findall(r"`(qwenctl .*?)`(?=[ ,;:)]|$)", hint)


@settings(max_examples=30)
@given(NAMES)
def test_quoted_words_come_back_and_a_path_is_no_option(name: str) -> None:
    assert shlex.split(quote(name, "x")) == [name, "x"]
    [word] = shlex.split(quote(Path(name)))
    assert Path(word) == Path(name)
    assert not word.startswith("-")
    assert parse(command_line("plan", Path(name)))[1] == word


def installed(root: Path, name: str, quant: str) -> InstalledModel:
    """A model that was quantized here, in a folder and with a name of any characters."""
    return InstalledModel(name, quant, "", (root / name / f"{name}.gguf",), None)


@settings(max_examples=30)
@given(NAMES, st.sampled_from(["Q8_0", "UD-Q4_K_XL"]))
def test_every_name_and_path_that_ls_shows_finds_the_model(name: str, quant: str) -> None:
    models = [installed(Path("/models"), name, quant), installed(Path("/models"), "other one", "Q2_K")]
    for model in models:
        for text in (model.name, model.qualified_name, str(model.path), model.path.stem):
            assert find_matches(text, models) == [model]
    assert find_matches(models[0].name.upper(), models) == models[:1]
    assert find_matches("neither of them", models) == []


@settings(max_examples=30)
@given(NAMES)
def test_repair_commands_are_parsed_to_the_model_and_its_folder(name: str) -> None:
    made = installed(Path("/models"), name, "Q8_0")
    words = parse(_repair_command(made))
    assert words[words.index("-o") + 1] == str(made.path)
    cache = RepoCache(Path("/caches") / name, "owner/name")
    pulled = InstalledModel("owner/name", name, "c" * 40, (cache.snapshot_folder("c" * 40) / "m.gguf",), cache)
    words = parse(_repair_command(pulled))
    assert words[words.index("--to") + 1] == str(cache.root)
    assert f"owner/name:{name}" in words


@settings(max_examples=30)
@given(NAMES)
def test_hints_of_refused_models_are_commands(name: str) -> None:
    hints = []
    for refused in (
        lambda: resolve_model_path(f"owner/name:{re.sub('[^A-Za-z0-9 $]', '', name)}x"),
        lambda: choose_quant(Listing("owner/name", "main", "c" * 40, (RemoteFile("a-Q8_0.gguf", 1, ""),)), name),
        lambda: _one_name(name, "a/b"),
        lambda: _check_request(parse_name("owner/name:Q8_0"), PullRequest(name)),
        lambda: check_model_file(Path("/")),
    ):
        with patch(INSTALLED, list), pytest.raises(QwenctlError) as caught:
            refused()
        hints.append(caught.value.hint)
    assert all(commands_in(hint) for hint in hints), hints
    for line in (line for hint in hints for line in commands_in(hint)):
        parse(line)


def test_hint_among_several_models_of_one_name_is_a_command() -> None:
    models = [installed(Path("/a b"), "it's", "Q8_0"), installed(Path("/c"), "it's", "Q8_0")]
    with (
        patch(INSTALLED, lambda **_: models),
        pytest.raises(QwenctlError, match="matches 2 models") as caught,
    ):
        find_one_installed("it's:Q8_0")
    assert parse(caught.value.hint) == ["show", str(models[1].path)]
    with (
        patch(INSTALLED, lambda: models),
        pytest.raises(QwenctlError, match="2 local models match") as caught,
    ):
        resolve_model_path("it's:Q8_0")
    assert shlex.split(caught.value.hint) == ["-m", str(models[0].path)]


def test_every_interpolated_command_in_the_sources_is_quoted() -> None:
    """An f-string may not put a value into a command: only `command_line` and `quote` may."""
    import qwenctl

    commands = "chat|pull|ls|show|rm|verify|plan|tune|bench|batch|quantize|sessions|prefixes"
    pattern = re.compile(rf"qwenctl (?:{commands})\b[^\"`,]*\{{(?!quote\(|endpoint.port)")
    wrong = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(Path(qwenctl.__file__).parent.rglob("*.py"))
        if path.name not in ("examples.py", "text_check.py")  # the names in these are constants, and quoted before
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line.replace("{{", ""))
    ]
    assert wrong == []
