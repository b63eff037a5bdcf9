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
    "rich",
}
RUN = "from qwenctl.cli import main; code = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr); sys.exit(code)"


def heavy_modules(*argv: str, first: str = "pass") -> set[str]:
    """The heavy packages loaded after running the command line `argv`, preceded by the statement `first`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {first}; {RUN}", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout
    return HEAVY & set(done.stderr.split())


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["chat", "--help"], ["quantize", "--help"], ["pull", "--help"],
             ["batch", "--help"],
             ["ls", "--help"], ["show", "--help"], ["verify", "--help"], ["rm", "--help"], ["clean", "--help"],
             ["doctor", "--help"], ["worker", "--help"], ["bench", "--help"],
             ["tune", "--help"]],
)  # fmt: skip
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    assert heavy_modules(*argv) == set()


@pytest.mark.parametrize("argv", [["config", "show"], ["config", "path"], ["config", "--help"]])
def test_reading_settings_imports_nothing_heavy(argv: list[str]) -> None:
    assert heavy_modules(*argv) == set()


def test_help_reads_no_settings() -> None:
    no_readers = "import tomllib, platformdirs; tomllib.loads = platformdirs.user_config_path = None"
    assert heavy_modules("chat", "--help", first=no_readers) == set()


def test_heavy_import_is_found() -> None:
    assert heavy_modules("--help", first="import markdown_it") == {"markdown_it"}
