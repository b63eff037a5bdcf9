"""Tests that need libllama run in a fork; its crash, skip or failure becomes the outcome of the test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import own_process
from tests.support.own_process import Late, late, real
from tests.support.paths import ROOT

# These tests run pytest in processes of their own.
pytestmark = pytest.mark.slow

OTHER_DEVICES = ("benchmarks", "gpu", "vulkan")  # not part of the test suite
LOADS = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "llama_cpp.llama_cpp" in sys.modules:
        sys.exit(f"{module} loads libllama")
"""
FORKED = """
import os, signal, sys
import pytest
from hypothesis import given, settings, strategies as st
from tests.support.own_process import Late, late
pytestmark = pytest.mark.own_process
number = late("decimal:Decimal")
PARENT = os.getpid()

@pytest.fixture
def made():
    return Late(lambda: [os.getpid()])

def test_passes(made, tmp_path):
    assert type(made) is list
    assert made == [os.getpid()] != [PARENT]
    assert number("1.50").as_tuple().exponent == -2
    (tmp_path / "x").touch()

def test_crashes():
    print("its last words")
    os.kill(os.getpid(), signal.SIGSEGV)

def test_aborts():
    os.abort()

def test_exits():
    os._exit(3)

def test_fails():
    wanted = {"a": 1}
    assert wanted == {"a": 2}

def test_fails_at_length():
    pytest.fail("x" * 1_000_000 + " the end")

def test_exits_by_an_exception():
    sys.exit("enough")

@given(st.integers())
@settings(database=None)
def test_fails_by_an_example(value):
    assert value < 7

def test_is_skipped():
    pytest.skip("not here")

def test_is_expected_to_fail():
    pytest.xfail("not yet")

@pytest.mark.xfail(reason="never")
def test_is_marked_to_fail():
    assert False

@pytest.mark.parametrize("number", [1, 2])
def test_passes_again(number):
    assert number in (1, 2)
"""


def run_pytest(folder: Path, text: str) -> tuple[dict[str, str], str]:
    """The outcome of each test in a module with this source text, and pytest's whole output."""
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = own_process\n")
    plugins = ["-p", "tests.support.own_process", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-rA", *plugins, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=folder, env=environment
    )
    summary = done.stdout[done.stdout.index("short test summary") :]
    outcomes = re.findall(r"^([A-Z]+) test_it\.py::(\S+)", summary, re.MULTILINE)
    return {name: outcome for outcome, name in outcomes}, done.stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    return run_pytest(tmp_path_factory.mktemp("forked"), FORKED)


def test_each_forked_test_has_its_own_outcome(output: tuple[dict[str, str], str]) -> None:
    outcomes, text = output
    assert outcomes == {
        "test_passes": "PASSED",
        "test_crashes": "FAILED",
        "test_aborts": "FAILED",
        "test_exits": "FAILED",
        "test_fails": "FAILED",
        "test_fails_at_length": "FAILED",
        "test_exits_by_an_exception": "FAILED",
        "test_fails_by_an_example": "FAILED",
        "test_is_expected_to_fail": "XFAIL",
        "test_is_marked_to_fail": "XFAIL",
        "test_passes_again[1]": "PASSED",
        "test_passes_again[2]": "PASSED",
    }
    assert re.search(r"SKIPPED \[1\] .*: not here", text)


@pytest.mark.parametrize(
    "words",
    [
        "its process ended by SIGSEGV\nFatal Python error: Segmentation fault\n",
        "in test_crashes\n",
        "its last words\n",
        "its process ended by SIGABRT\n",
        "its process ended with exit code 3\n",
        ">       assert wanted == {\"a\": 2}\nE       AssertionError: assert {'a': 1} == {'a': 2}\n",
        "x" * 1_000_000 + " the end\n",
        "SystemExit: enough\n",
        "test_fails_by_an_example(\nE           value=7,\n",
    ],
)
def test_fork_failure_is_reported_with_its_cause(output: tuple[dict[str, str], str], words: str) -> None:
    assert words in output[1]


def test_loading_libllama_in_the_pytest_process_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    for name in ("__init__", "llama_cpp"):
        (tmp_path / "llama_cpp" / f"{name}.py").touch()
    text = (
        "import pytest\n"
        "def test_before(): pass\n"
        "def test_loads(): import llama_cpp.llama_cpp\n"
        "@pytest.mark.own_process\n"
        "def test_after(): pass\n"
    )
    outcomes, output = run_pytest(tmp_path, text)
    assert outcomes["test_before"] == "PASSED"
    assert "ERROR at teardown of test_loads" in output
    assert outcomes["test_after"] != "PASSED"


def test_late_value_is_refused_outside_a_fork() -> None:
    for value in (late("decimal"), Late(lambda: 1)):
        for use in (real, lambda one: one.name, lambda one: one(), lambda one: one[0]):
            with pytest.raises(AssertionError, match="a test that uses it is marked own_process"):
                use(value)


def test_late_value_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_forked", True)
    made: list[int] = []
    value = Late(lambda: made.append(1))
    assert real(value) is real(value) is None
    assert made == [1]
    assert real(late("os")) is os
    assert real(late("os:getcwd")) is os.getcwd
    assert real(1) == 1
    assert not hasattr(late("os"), "__test__")  # pytest looks for this attribute on all names of a module


# ------------------------------------------------------------------ modules of tests


def find_libllama_import(*modules: str) -> str:
    """A message naming the first of these modules whose import loads libllama; empty if none does."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS, *modules], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    return done.stderr.strip()


def test_no_test_module_loads_libllama() -> None:
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "tests").rglob("*.py"))]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.parts[1] not in OTHER_DEVICES]
    assert len(modules) > 100
    assert find_libllama_import(*modules) == ""


def test_module_that_loads_libllama_is_found() -> None:
    assert (
        find_libllama_import("tests.support.waiting", "qwenctl.engine.model") == "qwenctl.engine.model loads libllama"
    )
