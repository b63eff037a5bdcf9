"""The check of llama.cpp detects crashes, aborts, hangs and wrong results, and a failing part is not used.

The faults come from a fake worker.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.backend_check.check import cached_check, check_backend, describe_failure, failed_devices, require_backend
from qwenctl.backend_check.child import CheckImpossible, run_checks
from qwenctl.backend_check.identity import check_key, device_key
from qwenctl.backend_check.results import (
    BOUND,
    EXTRA,
    PLAIN,
    BackendCheck,
    CaseResult,
    Subject,
    SubjectResult,
    as_json,
    check_from_json,
)
from qwenctl.loading.checked_backend import without_devices
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.profile import Device as PlanDevice
from qwenctl.machine.profile import Machine

GPU = Subject("device", "GPU0")
CARD = GgmlDevice("GPU0", "a card", "gpu", 24 << 30, 23 << 30, "Vulkan")
FAR = GgmlDevice("RPC0", "10.0.0.2:50052", "gpu", 24 << 30, 23 << 30, "RPC")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def failures(result: SubjectResult | None) -> list[tuple[str, str]]:
    assert result is not None
    return [(case.case, case.error) for case in result.failures]


# ------------------------------------------------------------------ saved results


def test_saved_check_is_used_until_the_backend_changes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, found = check_backend()
    assert found
    assert check_backend() == (check, ())
    assert cached_check() == check
    key = check_key()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(cache))
    assert check_key() != key
    assert cached_check() is None


def test_damaged_saved_check_is_ignored(cache: Path) -> None:
    check, _ = check_backend()
    (saved,) = cache.glob("qwenctl/backend-*.json")
    for damaged in ("", "[]", "{}", '{"cpu": 1}', '{"cpu": {"subject": 1}, "extra": null}', "[" * 100_000):
        saved.write_text(damaged)
        assert cached_check() is None
    saved.write_text(json.dumps(as_json(check)))
    assert cached_check() == check


def test_check_runs_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert require_backend(report=lambda _: None).cpu.passed


numbers = st.floats(0, 1e9, allow_nan=False)
cases = st.builds(CaseResult, st.text(max_size=9), numbers, st.booleans(), st.text(max_size=9))
subjects = st.builds(Subject, st.sampled_from(["cpu", "extra", "device"]), st.text(max_size=9))
results = st.builds(
    SubjectResult,
    subjects,
    st.lists(cases, max_size=3).map(tuple),
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
)
checks = st.builds(
    BackendCheck, results, st.none() | results, st.dictionaries(st.text(max_size=9), results, max_size=2), st.text()
)


@given(checks)
def test_check_json_round_trip_is_exact(check: BackendCheck) -> None:
    assert check_from_json(json.loads(json.dumps(as_json(check)))) == check


# ------------------------------------------------------------------ fake workers

_CASES = ["one token at a time", "2 sequences at once"]
_FAKE = """
import json, os, signal, sys, time
asked = json.loads(sys.stdin.readline())["subjects"]
def say(**fields):
    print(json.dumps(fields), flush=True)
def done(subject, nmse=0.0):
    for case in {cases}:
        say(case=case)
        say(result=dict(case=case, nmse=nmse, same_tokens=True))
    say(done=subject)
for subject in asked:
    {body}
"""


def fake_worker(body: str) -> list[str]:
    return [sys.executable, "-c", _FAKE.format(cases=_CASES, body=body)]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("say(case='loading'); time.sleep(60)", "no result in time: it hangs"),
        ("print('nonsense', flush=True)", "unexpected output"),
        ("say(result=dict(of='another kind'))", "unexpected output"),
        ("say(done=dict(kind='device', name='another'))", "unexpected output"),
        ("sys.exit('OSError: libcudart.so.12: no such file')", "OSError: libcudart.so.12: no such file"),
        ("sys.stderr.write('/b/ggml.c:7: GGML_ASSERT(x) failed\\n'); os.abort()", "SIGABRT: ggml.c:7: GGML_ASSERT(x)"),
    ],
)
def test_failing_worker_is_a_failed_check(body: str, error: str) -> None:
    found = run_checks([PLAIN, EXTRA, GPU], lambda _: None, fake_worker(body), cpu_seconds=2)
    assert list(found) == [PLAIN]  # the other checks are skipped when it fails
    assert found[PLAIN].failures[0].error.startswith(error)


def test_worker_unable_to_check_raises_check_impossible() -> None:
    with pytest.raises(CheckImpossible, match="No space left on device"):
        run_checks([PLAIN], lambda _: None, fake_worker("say(impossible='No space left on device')"))


def test_missing_worker_is_a_failed_check() -> None:
    found = run_checks([PLAIN], lambda _: None, ["/no/such/python"])
    assert "No such file" in found[PLAIN].failures[0].error


def test_crash_of_one_device_leaves_the_others_checked() -> None:
    other = Subject("device", "GPU1")
    body = "os.kill(os.getpid(), signal.SIGSEGV) if subject['name'] == 'GPU0' else done(subject)"
    found = run_checks([PLAIN, EXTRA, GPU, other], lambda _: None, fake_worker(body))
    assert {subject: result.passed for subject, result in found.items()} == {
        PLAIN: True, EXTRA: True, GPU: False, other: True
    }  # fmt: skip
    assert failures(found[GPU]) == [("its start", "SIGSEGV")]


def test_error_above_the_bound_fails_the_check() -> None:
    for nmse, passed in ((0.9 * BOUND, True), (1.1 * BOUND, False)):
        found = run_checks([PLAIN], lambda _: None, fake_worker(f"done(subject, nmse={nmse})"))
        assert found[PLAIN].passed == passed


def test_check_reports_its_progress() -> None:
    shown: list[str] = []
    run_checks([PLAIN, GPU], shown.append, fake_worker("done(subject)"))
    assert "checking llama.cpp: CPU, 2 sequences at once" in shown
    assert "checking llama.cpp: GPU0, one token at a time" in shown


# ------------------------------------------------------------------ exclusion of failed devices


@pytest.fixture
def failing_card() -> BackendCheck:
    right = SubjectResult(PLAIN, (CaseResult("one token at a time"),))
    wrong = SubjectResult(GPU, (CaseResult("one token at a time", 0.5, same_tokens=False),))
    return BackendCheck(right, None, {device_key(CARD): wrong})


def test_failed_device_is_excluded_and_reported(failing_card: BackendCheck) -> None:
    devices = (CARD, FAR)
    assert failed_devices(failing_card, devices) == {"GPU0"}
    found = [PlanDevice(one.name, one.backend, one.description, one.total_bytes, one.free_bytes) for one in devices]
    machine = without_devices(Machine(1, 1, devices=tuple(found)), {"GPU0"})
    assert [one.name for one in machine.devices] == ["RPC0"]
    message, hint = describe_failure(failing_card.devices[device_key(CARD)])
    assert message == "GPU0 fails (one token at a time: another token, NMSE 0.5): only used where --device names it"
    assert "qwenctl doctor --measure" in hint


def test_failed_check_does_not_apply_to_a_replaced_device(failing_card: BackendCheck) -> None:
    assert failed_devices(failing_card, (replace(CARD, description="a newer card"),)) == frozenset()


def test_golden_logits_match_the_same_weights_in_float32(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.widened_model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert float(done.stdout) < BOUND
