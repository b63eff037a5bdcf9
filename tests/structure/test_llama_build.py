"""llama.cpp is built without AMX by every compiler, and an unusable compiler is reported in one line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qwenctl.machine.llama_build import WITHOUT_AMX, build_command
from tests.support.paths import ROOT

HAS_AMX = "-march=sapphirerapids"
AMX = "__AMX_?INT8__"  # clang 14 writes it without the second underscore, so llama.cpp does not see it
COMPILERS = [name for name in ("cc", "gcc", "gcc-13", "gcc-14", "clang", "clang-16", "clang-19") if shutil.which(name)]


def defined_macros(compiler: str, *flags: str) -> str | None:
    """The macros that a compiler defines with these flags; None if it does not support them."""
    done = subprocess.run(
        [compiler, *flags, "-dM", "-E", "-x", "c", "/dev/null"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout if done.returncode == 0 else None


@pytest.mark.parametrize("compiler", COMPILERS)
def test_build_flag_disables_amx_in_any_position(compiler: str) -> None:
    with_it = defined_macros(compiler, HAS_AMX)
    if with_it is None:
        pytest.skip(f"{compiler} knows no processor with AMX")
    assert re.search(AMX, with_it)
    for flags in ((HAS_AMX, WITHOUT_AMX), (WITHOUT_AMX, HAS_AMX)):
        found = defined_macros(compiler, *flags)
        assert found is not None
        assert not re.search(AMX, found)
        assert "__AVX512VNNI__" in found  # only AMX is disabled


def test_setup_reads_the_flag_from_the_module() -> None:
    script = (ROOT / ".ci" / "setup.sh").read_text()
    assert "qwenctl/machine/llama_build.py" in script
    assert WITHOUT_AMX not in script
    read = "sed -n 's/^WITHOUT_AMX = \"\\(.*\\)\"$/\\1/p' qwenctl/machine/llama_build.py"
    assert read in script
    done = subprocess.run(["bash", "-c", read], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert done.stdout.strip() == WITHOUT_AMX
    assert WITHOUT_AMX in build_command("CPU", "x86_64")


@pytest.mark.parametrize(
    ("compiler", "line"),
    [
        ("/no/such/compiler", "setup: error: no compiler called /no/such/compiler (on Debian: apt-get install "),
        ("false", "setup: error: false cannot compile a program: it says nothing"),
    ],
)
def test_setup_reports_an_unusable_compiler(compiler: str, line: str, tmp_path: Path) -> None:
    """Runs in a fresh folder. Nothing is installed before setup fails."""
    for name in (".ci", "qwenctl/machine"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "qwenctl/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        ["bash", ".ci/setup.sh"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "CC": compiler, "CXX": compiler, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    lines = [one for one in done.stderr.splitlines() if one.startswith("setup: error:")]
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert "apt-get install build-essential" in done.stderr
    assert not (tmp_path / ".venv").exists()
