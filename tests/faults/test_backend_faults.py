"""Faults planted into the real llama.cpp: the check detects them, and the failing part is not used.

The faults come from a preloaded library (broken_backend.c).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.backend_check.check import cached_check, check_backend, require_backend
from qwenctl.backend_check.child import run_checks
from qwenctl.backend_check.results import EXTRA, PLAIN, CaseResult, as_json
from qwenctl.errors import ExitCode, QwenctlError
from tests.support.batching import write_lines
from tests.support.broken_backend import Fault, Path_, broken, build_broken_backend
from tests.support.command_line import run

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library")
RIGHT = "The capital of France is Paris.\n"
QUESTION = ("--no-think", "--temp", "0", "What is the capital of France?")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_broken_backend(tmp_path_factory.mktemp("broken"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def plant_fault(monkeypatch: pytest.MonkeyPatch, library: Path, path: Path_, fault: Fault) -> None:
    set_variables(monkeypatch, broken(library, path, fault))


def test_installed_backend_passes_the_check(cache: Path) -> None:
    check, found = check_backend()
    assert [result.failures for result in found] == [()] * len(found)
    assert check.cpu.passed
    assert check.allows_extra_buffers
    assert {"known values", "one token at a time", "4 sequences at once", "a restored state"} <= {
        case.case for case in check.cpu.cases
    }


@linux_only
@pytest.mark.parametrize(
    ("fault", "error"), [("wrong", ""), ("crash", "SIGSEGV"), ("abort", "SIGABRT"), ("hang", "no result in time")]
)
def test_broken_extra_buffer_types_fail_the_check(
    cache: Path, monkeypatch: pytest.MonkeyPatch, library: Path, fault: Fault, error: str
) -> None:
    if not run_checks([EXTRA], lambda _: None)[EXTRA].cases:
        pytest.skip("this processor has no extra buffer types")
    plant_fault(monkeypatch, library, "extra", fault)
    found = run_checks([PLAIN, EXTRA], lambda _: None, cpu_seconds=20 if fault == "hang" else 60)
    assert found[PLAIN].passed
    first = found[EXTRA].failures[0]
    assert first.case == "2 sequences at once"  # one sequence alone is right, as it is with ggml's AMX kernels
    assert first.error.startswith(error)
    assert bool(first.error) == bool(error)
    assert found[EXTRA].parts


@linux_only
@pytest.mark.parametrize(("fault", "error"), [("wrong", ""), ("crash", "SIGSEGV")])
def test_broken_plain_path_raises_engine_crashed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, library: Path, fault: Fault, error: str
) -> None:
    plant_fault(monkeypatch, library, "plain", fault)
    messages: list[str] = []
    with pytest.raises(QwenctlError) as caught:
        require_backend(report=messages.append)
    assert caught.value.code == ExitCode.ENGINE_CRASHED
    assert caught.value.message.startswith("llama.cpp computes wrong results on this machine: 2 sequences at once: ")
    assert error in caught.value.message
    assert "pip install --no-binary llama-cpp-python" in caught.value.hint
    assert messages == []
    assert cached_check() is None  # not saved: it may be repaired by the next run


@linux_only
def test_commands_with_broken_extra_buffer_types_answer_correctly_and_warn_once(
    cache: Path, library: Path, toy_gguf: Path, tmp_path: Path
) -> None:
    variables = broken(library, "extra", "wrong")
    first = run("chat", "-m", str(toy_gguf), *QUESTION, stdin=None, **variables)
    if not first.stderr and cached_check() is not None:
        pytest.skip("this processor has no extra buffer types")
    warning = (
        r"qwenctl: warning: llama\.cpp fails with \w+ \(2 sequences at once: another token, NMSE [\d.]+\): "
        r"not used, which may be slower; to build it without this fault: .*pip install .*\n"
    )
    assert (first.stdout.decode(), first.returncode) == (RIGHT, 0)
    assert re.fullmatch(warning, first.stderr.decode())
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": QUESTION[-1]}] * 2)
    options = ("-np", "2", "--no-think", "--temp", "0", "-q")
    batch = run("batch", str(source), "-o", "-", "-m", str(toy_gguf), *options, stdin=None, **variables)
    answers = [json.loads(line)["answer"] for line in batch.stdout.splitlines()]
    assert (answers, batch.stderr) == ([RIGHT.strip()] * 2, b"")


@linux_only
def test_commands_with_a_broken_plain_path_fail(cache: Path, library: Path, toy_gguf: Path) -> None:
    variables = broken(library, "plain", "wrong")
    for command in (("chat", "-m", str(toy_gguf), *QUESTION), ("bench", str(toy_gguf), "-p", "8", "-n", "0")):
        done = run(*command, stdin=None, **variables)
        assert (done.stdout, done.returncode) == (b"", 70)
        assert done.stderr.startswith(
            b"qwenctl: error: llama.cpp computes wrong results on this machine: 2 sequences at once: "
        )


@linux_only
def test_doctor_shows_the_results_of_broken_extra_buffer_types(cache: Path, library: Path) -> None:
    done = run("doctor", **broken(library, "extra", "crash"))
    text = done.stdout.decode()
    if "extra buffer types" not in text:
        pytest.skip("this processor has no extra buffer types")
    assert done.returncode == 1
    assert re.search(
        r"^check of llama\.cpp: error \(allowed: 0\.02\) +CPU +extra buffer types \(\w+", text, re.MULTILINE
    )
    assert re.search(r"^  one token at a time +\S+ +\S+$", text, re.MULTILINE)
    assert re.search(r"^  2 sequences at once +\S+ +FAILED \(SIGSEGV\)$", text, re.MULTILINE)
    assert re.search(r"^! llama\.cpp fails with \w+.* \(2 sequences at once: SIGSEGV\)", text, re.MULTILINE)


def test_doctor_measure_repeats_the_check(cache: Path) -> None:
    check, _ = check_backend()
    (saved,) = cache.glob("qwenctl/backend-*.json")
    wrong = replace(check, cpu=replace(check.cpu, cases=(CaseResult("one token at a time", 0.9),)))
    saved.write_text(json.dumps(as_json(wrong)))
    reports = [json.loads(run("doctor", "--json", *more).stdout) for more in ((), ("--measure",))]
    found = [[one["message"] for one in each["findings"] if one["topic"] == "backend"] for each in reports]
    assert found == [["llama.cpp computes wrong results on this machine: one token at a time: NMSE 0.9"], []]
    assert check_backend()[1] == ()  # the new result is saved
    assert reports[1]["check"]["cpu"]["cases"][0]["case"] == "known values"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ((), "FileNotFoundError: Shared library with base name 'llama' not found"),
        (
            ("libllama.so",),
            "RuntimeError: Failed to load shared library '{folder}/libllama.so': {folder}/libllama.so: ",
        ),
    ],
)
def test_unloadable_library_is_a_one_line_error(
    cache: Path, toy_gguf: Path, tmp_path: Path, files: tuple[str, ...], reason: str
) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"no library")
    done = run("chat", "-m", str(toy_gguf), *QUESTION, stdin=None, LLAMA_CPP_LIB_PATH=str(folder))
    line, hint = done.stderr.decode().splitlines()
    assert (done.stdout, done.returncode) == (b"", 70)
    expected = f"qwenctl: error: llama.cpp does not start on this machine: {reason.format(folder=folder)}"
    assert line.startswith(expected)
    assert "pip install --no-binary llama-cpp-python" in hint


def test_library_for_another_processor_is_reported(cache: Path, toy_gguf: Path, tmp_path: Path) -> None:
    """The library starts with an instruction that no processor supports."""
    (tmp_path / "trap.c").write_text("__attribute__((constructor)) static void trap(void) { __builtin_trap(); }\n")
    target = tmp_path / "libllama.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, tmp_path / "trap.c"], check=True, timeout=60)
    done = run("chat", "-m", str(toy_gguf), *QUESTION, stdin=None, LLAMA_CPP_LIB_PATH=str(tmp_path))
    line, hint = done.stderr.decode().splitlines()
    assert (done.stdout, done.returncode) == (b"", 70)
    words = r"llama\.cpp does not start on this machine: SIG(ILL|TRAP)( \(is it built for another processor\?\))?"
    assert re.fullmatch(rf"qwenctl: error: {words}", line)
    assert "pip install --no-binary llama-cpp-python" in hint


def test_impossible_check_leaves_only_the_plain_path(cache: Path, toy_gguf: Path, tmp_path: Path) -> None:
    """The file size limit is smaller than the model of the check."""
    command = (
        f"ulimit -f 4000; exec {sys.executable} -m qwenctl chat -m {toy_gguf} --no-think --temp 0 '{QUESTION[-1]}'"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, stdin=subprocess.DEVNULL, timeout=120, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.stdout.decode(), done.returncode) == (RIGHT, 0)
    reason = r"llama\.cpp could not be checked \(.*File too large.*\): only its plain CPU path is used"
    assert re.fullmatch(rf"qwenctl: warning: {reason}\n", done.stderr.decode())
    assert cached_check() is None
    assert list(tmp_path.glob("qwenctl-check-*")) == []
