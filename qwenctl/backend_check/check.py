"""The check of the backend: run once for each build, CPU and device, cached, and respected.

Devices come in, a `BackendCheck` goes out: which ways to compute may be used on this machine. The cache is a JSON file
in the cache folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from qwenctl.backend_check.child import CheckImpossible, Show, run_checks
from qwenctl.backend_check.identity import check_key, device_key
from qwenctl.backend_check.results import (
    EXTRA,
    PLAIN,
    STARTING,
    UNCHECKED,
    BackendCheck,
    Subject,
    SubjectResult,
    as_json,
    check_from_json,
)
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import read_object, write_object
from qwenctl.files.paths import cache_folder
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.llama_build import build_command

_CHECKED_KINDS = ("gpu", "igpu", "accelerator")
_RUN_AGAIN = "`qwenctl doctor --measure` checks again"


def cached_check() -> BackendCheck | None:
    """The cached result for this build and CPU; None if there is none."""
    path = _path(check_key())
    fields = read_object(path) if path is not None else {}
    try:
        return check_from_json(fields) if fields else None
    except ValueError:
        return None


def check_backend(
    devices: Sequence[GgmlDevice] = (), *, recheck: bool = False, show: Show = lambda _: None
) -> tuple[BackendCheck, tuple[SubjectResult, ...]]:
    """Check the CPU's ways to compute and these devices; return all results, and those that are new.

    Cached results are used unless `recheck`; missing ones are computed now, which takes about a second, and longer for
    a device. `show` receives what is being checked. Raises CheckImpossible.
    """
    cached = None if recheck else cached_check()
    missing = {
        key: device for key, device in _checkable(devices).items() if cached is None or key not in cached.devices
    }
    subjects = [
        *([PLAIN, EXTRA] if cached is None else []),
        *(Subject("device", device.name) for device in missing.values()),
    ]
    if cached is not None and not subjects:
        return cached, ()
    results = run_checks(subjects, show)
    checked = {key: Subject("device", device.name) for key, device in missing.items()}
    check = _merge(cached, results, {key: results[subject] for key, subject in checked.items() if subject in results})
    if check.cpu.passed:  # otherwise nothing runs, and the next attempt may find it repaired
        _save(check)
    return check, tuple(results.values())


def require_backend(
    devices: Sequence[GgmlDevice] = (), *, report: Callable[[str], None], show: Show = lambda _: None
) -> BackendCheck:
    """The check for a command that needs the backend; `report` receives a line for each new failure.

    Raises QwenctlError if the CPU's plain path fails, because then nothing can be trusted.
    """
    cached = cached_check()
    for key, device in _checkable(devices).items():
        if cached is None or key not in cached.devices:
            report(f"checking {device.name} (once)")
    try:
        check, results = check_backend(devices, show=show)
    except CheckImpossible as error:
        report(f"llama.cpp could not be checked ({error}): only its plain CPU path is used")
        return cached or UNCHECKED
    if not check.cpu.passed:
        raise backend_error(check)
    for result in results:
        if not result.passed and result.cases:
            report("; ".join(describe_failure(result)))
    return check


def backend_error(check: BackendCheck) -> QwenctlError:
    """The error for a build whose plain path computes wrong values."""
    message, hint = describe_failure(check.cpu)
    return QwenctlError(message, hint, ExitCode.ENGINE_CRASHED)


def describe_failure(result: SubjectResult) -> tuple[str, str]:
    """What a failed subject means, and what to do about it."""
    failure = result.failures[0]
    if result.subject.kind == "cpu":
        suffix = " (is it built for another processor?)" if "SIGILL" in failure.error else ""
        problem = f"does not start on this machine: {failure.error}"
        if failure.case != STARTING:
            problem = f"computes wrong results on this machine: {failure.failure_text()}"
        return f"llama.cpp {problem}{suffix}", build_command("CPU")
    if result.subject.kind == "extra":
        types = ", ".join(result.parts) or "extra buffer types"
        message = f"llama.cpp fails with {types} ({failure.failure_text()}): not used, which may be slower"
        return message, f"to build it without this fault: {build_command('CPU')}"
    name = result.subject.name
    return f"{name} fails ({failure.failure_text()}): only used where --device names it", _RUN_AGAIN


def failed_devices(check: BackendCheck, devices: Sequence[GgmlDevice]) -> frozenset[str]:
    """The names of the `devices` that have failed the check."""
    results = ((device.name, check.devices.get(key)) for key, device in _checkable(devices).items())
    return frozenset(name for name, result in results if result is not None and not result.passed)


def _checkable(devices: Sequence[GgmlDevice]) -> dict[str, GgmlDevice]:
    """Devices by key, except those of RPC servers, which belong to another machine."""
    return {
        device_key(device): device for device in devices if device.kind in _CHECKED_KINDS and device.backend != "RPC"
    }


def _merge(
    cached: BackendCheck | None, results: Mapping[Subject, SubjectResult], devices: Mapping[str, SubjectResult]
) -> BackendCheck:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if cached is not None:
        return replace(cached, devices={**cached.devices, **devices}, checked=now)
    extra = results.get(EXTRA)
    return BackendCheck(results[PLAIN], extra if extra and extra.cases else None, devices, now)


def _save(check: BackendCheck) -> None:
    path = _path(check_key())
    if path is not None:
        with suppress(OSError):
            write_object(path, as_json(check))


def _path(key: str) -> Path | None:
    try:
        return cache_folder() / f"backend-{key}.json"
    except QwenctlError:
        return None
