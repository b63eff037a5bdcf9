"""Unit tests that start a process or load libllama fail; other tests are not affected."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import TESTS

TRIES = {
    "test_starts": "import subprocess, sys\n    subprocess.run([sys.executable, '-c', ''], check=True)",
    "test_forks": "import os\n    os.fork() or os._exit(0)",
    "test_spawns": "import os\n    os.posix_spawn('/bin/true', ['true'], {})",
    "test_loads": "import ctypes\n    ctypes.CDLL('/nowhere/libllama.so')",
    "test_catches": "import os\n    try:\n        os.system('true')\n    except Exception:\n        pass",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "unit").mkdir()
    (folder / "unit" / "conftest.py").write_text((TESTS / "unit" / "conftest.py").read_text())
    text = "".join(f"def {name}():\n    {body}\n\n" for name, body in TRIES.items())
    (folder / "unit" / "test_tries.py").write_text(text + "def test_computes():\n    assert 1 + 1 == 2\n")
    (folder / "zoo").mkdir()
    (folder / "zoo" / "test_elsewhere.py").write_text(f"def test_elsewhere():\n    {TRIES['test_starts']}\n")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout[done.stdout.index("short test summary") :]


@pytest.mark.parametrize("name", TRIES)
def test_forbidden_action_fails_a_unit_test(outcomes: str, name: str) -> None:
    assert f"ERROR unit/test_tries.py::{name}" in outcomes
    assert (f"PASSED unit/test_tries.py::{name}" in outcomes) == (name == "test_catches")


def test_allowed_tests_pass(outcomes: str) -> None:
    for name in ("unit/test_tries.py::test_computes", "zoo/test_elsewhere.py::test_elsewhere"):
        assert f"PASSED {name}" in outcomes
        assert f"ERROR {name}" not in outcomes
