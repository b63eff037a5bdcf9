"""Results of the check of llama.cpp: what passes, what a failure is called, and the way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.backend_check.check import backend_error, describe_failure, failed_devices
from qwenctl.backend_check.identity import device_key
from qwenctl.backend_check.results import (
    BOUND,
    EXTRA,
    PLAIN,
    STARTING,
    UNCHECKED,
    BackendCheck,
    CaseResult,
    Subject,
    SubjectResult,
    as_json,
    check_from_json,
)
from qwenctl.errors import ExitCode
from tests.support.example_machine import CPU_DEVICE, GPU_DEVICE

CASES = st.builds(CaseResult, st.text(), st.floats(0, allow_nan=False, allow_infinity=False), st.booleans(), st.text())
RESULTS = st.builds(
    SubjectResult,
    st.builds(Subject, st.sampled_from(["cpu", "extra", "device"]), st.text()),
    st.lists(CASES, max_size=2).map(tuple),
    st.lists(st.text(), max_size=2).map(tuple),
)


@given(st.builds(BackendCheck, RESULTS, st.none() | RESULTS, st.dictionaries(st.text(), RESULTS, max_size=2)))
def test_check_is_read_back_equal_from_json(check: BackendCheck) -> None:
    assert check_from_json(json.loads(json.dumps(as_json(check)))) == check


@pytest.mark.parametrize("change", [{"cpu": None}, {"devices": []}, {"extra": 5}, {"checked": None, "cpu": {}}])
def test_damaged_json_is_no_check(change: dict[str, object]) -> None:
    fields = as_json(BackendCheck(SubjectResult(PLAIN)))
    with pytest.raises(ValueError, match="not a"):
        check_from_json({**fields, **change})


@pytest.mark.parametrize(
    ("case", "passed"),
    [
        (CaseResult("prompt", BOUND), True),
        (CaseResult("prompt", 2 * BOUND), False),
        (CaseResult("prompt", 0.0, same_tokens=False), False),
        (CaseResult("prompt", error="SIGSEGV"), False),
    ],
)
def test_case_passes_with_the_right_tokens_a_small_error_and_no_crash(case: CaseResult, passed: bool) -> None:
    assert case.passed is passed
    assert SubjectResult(PLAIN, (CaseResult("other"), case)).passed is passed


def test_subject_without_results_has_not_passed() -> None:
    assert not SubjectResult(PLAIN).passed
    assert not UNCHECKED.allows_extra_buffers
    assert BackendCheck(SubjectResult(PLAIN)).allows_extra_buffers  # there are none


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            SubjectResult(PLAIN, (CaseResult(STARTING, error="SIGILL"),)),
            "llama.cpp does not start on this machine: SIGILL (is it built for another processor?)",
        ),
        (
            SubjectResult(PLAIN, (CaseResult("prompt", 0.5),)),
            "llama.cpp computes wrong results on this machine: prompt: NMSE 0.5",
        ),
        (
            SubjectResult(EXTRA, (CaseResult("answer", error="timeout"),), ("AMX",)),
            "llama.cpp fails with AMX (answer: timeout): not used, which may be slower",
        ),
        (
            SubjectResult(Subject("device", "CUDA0"), (CaseResult("answer", 0.1, same_tokens=False),)),
            "CUDA0 fails (answer: another token, NMSE 0.1): only used where --device names it",
        ),
    ],
)
def test_failure_says_what_fails_and_what_it_means(result: SubjectResult, words: str) -> None:
    message, hint = describe_failure(result)
    assert message == words
    assert hint


def test_wrong_plain_path_is_a_crash_of_the_engine() -> None:
    error = backend_error(BackendCheck(SubjectResult(PLAIN, (CaseResult("prompt", 0.5),))))
    assert error.code == ExitCode.ENGINE_CRASHED


def test_failed_devices_are_those_of_this_machine_that_were_checked() -> None:
    failed = SubjectResult(Subject("device", "CUDA0"), (CaseResult("prompt", 0.5),))
    remote = replace(GPU_DEVICE, backend="RPC")
    check = BackendCheck(SubjectResult(PLAIN), devices={device_key(one): failed for one in (GPU_DEVICE, remote)})
    assert failed_devices(check, [CPU_DEVICE, GPU_DEVICE]) == {"CUDA0"}
    assert failed_devices(check, [remote]) == frozenset()
    assert failed_devices(check, [replace(GPU_DEVICE, total_bytes=1)]) == frozenset()  # another card
