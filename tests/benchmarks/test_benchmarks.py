"""The benchmark command lists every benchmark. The measurements themselves are not part of the test suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=FOLDER.parent.parent)


def test_help_lists_each_benchmark_with_its_description() -> None:
    offered = benchmarks("--help").stdout.split("benchmarks:\n")[1].splitlines()
    paths = [path for path in FOLDER.glob("*.py") if path != Path(__file__)]
    modules = {path.stem for path in paths if "def run(" in path.read_text()}
    assert {line.split()[0] for line in offered} == modules
    assert all(len(line.split()) > 3 for line in offered)


def test_unknown_benchmark_is_refused() -> None:
    done = benchmarks("speed")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such benchmark: speed" in done.stderr
