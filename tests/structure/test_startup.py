"""Help starts quickly: heavy packages are not imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "PIL",
    "av",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "llama_cpp",
    "markdown_it",
    "msgspec",
    "numpy",
    "prompt_toolkit",
    "psutil",
    "pydantic",
    "rich",
}
# Packages of the program that help does not need; of the placement it needs the limits of its options.
OWN = ("qwenctl.engine", "qwenctl.hub", "qwenctl.loading", "qwenctl.machine", "qwenctl.placement", "qwenctl.views")
RUN = "from qwenctl.cli import main; code = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"


def loaded_modules(*argv: str, first: str = "pass") -> set[str]:
    """The modules loaded after running the command line `argv`, preceded by the statement `first`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {first}; {RUN}", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout
    return set(done.stderr.split())


def heavy_modules(*argv: str, first: str = "pass") -> set[str]:
    """The heavy packages among the loaded modules."""
    return HEAVY & loaded_modules(*argv, first=first)


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["chat", "--help"], ["quantize", "--help"], ["pull", "--help"],
             ["batch", "--help"],
             ["ls", "--help"], ["show", "--help"], ["verify", "--help"], ["rm", "--help"], ["clean", "--help"],
             ["doctor", "--help"], ["worker", "--help"], ["bench", "--help"],
             ["tune", "--help"]],
)  # fmt: skip
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    assert heavy_modules(*argv) == set()


def test_help_imports_nothing_that_runs_a_model() -> None:
    loaded = loaded_modules("chat", "--help")
    assert {name for name in loaded if name.startswith(OWN)} <= {"qwenctl.placement", "qwenctl.placement.constraints"}


@pytest.mark.parametrize("argv", [["config", "show"], ["config", "path"], ["config", "--help"]])
def test_reading_settings_imports_nothing_heavy(argv: list[str]) -> None:
    assert heavy_modules(*argv) == set()


@pytest.mark.parametrize("argv", [["ls", "--json"], ["config", "show"], ["help", "chat"]])
def test_commands_are_parsed_without_pydantic(argv: list[str]) -> None:
    """typer imports it to convert values, which takes as long as the rest of a short command."""
    assert "pydantic" not in loaded_modules(*argv)


def test_help_reads_no_settings() -> None:
    no_readers = "import tomllib, platformdirs; tomllib.loads = platformdirs.user_config_path = None"
    assert heavy_modules("chat", "--help", first=no_readers) == set()


def test_heavy_import_is_found() -> None:
    assert heavy_modules("--help", first="import markdown_it") == {"markdown_it"}
