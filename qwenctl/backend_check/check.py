"""The check of the backend: run once for each build, processor and device, kept, and obeyed.

Devices come in, a `BackendCheck` goes out: which of the ways to compute may be used here. What is kept lies in a JSON
file of the cache folder.
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
    check_of,
)
from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.files.atomic import read_object, write_object
from qwenctl.files.paths import cache_folder
from qwenctl.machine.devices import GgmlDevice
from qwenctl.machine.llama_build import build_command

_CHECKED_KINDS = ("gpu", "igpu", "accelerator")
_RUN_AGAIN = "`qwenctl doctor --measure` checks again"


def kept_check() -> BackendCheck | None:
    """The result that is kept for this build and processor; None if there is none."""
    path = _path(check_key())
    found = read_object(path) if path is not None else {}
    try:
        return check_of(found) if found else None
    except ValueError:
        return None


def check_backend(
    devices: Sequence[GgmlDevice] = (), *, again: bool = False, show: Show = lambda _: None
) -> tuple[BackendCheck, tuple[SubjectResult, ...]]:
    """The check of the CPU's ways to compute and of these devices, and what of it was found just now.

    What is kept is believed unless `again`; what is lacking is checked now, which takes about a second, and longer for
    a device. `show` is told what is being checked. Raises CheckImpossible.
    """
    kept = None if again else kept_check()
    lacking = {key: one for key, one in _checkable(devices).items() if kept is None or key not in kept.devices}
    subjects = [*([PLAIN, EXTRA] if kept is None else []), *(Subject("device", one.name) for one in lacking.values())]
    if kept is not None and not subjects:
        return kept, ()
    found = run_checks(subjects, show)
    checked = {key: Subject("device", one.name) for key, one in lacking.items()}
    check = _merged(kept, found, {key: found[subject] for key, subject in checked.items() if subject in found})
    if check.cpu.passed:  # otherwise nothing runs, and the next try may find it mended
        _keep(check)
    return check, tuple(found.values())


def require_backend(
    devices: Sequence[GgmlDevice] = (), *, tell: Callable[[str], None], show: Show = lambda _: None
) -> BackendCheck:
    """The same for a command that needs the backend; what was just found to fail is told in one line each.

    Raises QwenctlError if the CPU's plain path fails, for then nothing can be believed.
    """
    kept = kept_check()
    for key, device in _checkable(devices).items():
        if kept is None or key not in kept.devices:
            tell(f"checking {device.name} (once)")
    try:
        check, found = check_backend(devices, show=show)
    except CheckImpossible as error:
        tell(f"llama.cpp could not be checked ({error}): only its plain CPU path is used")
        return kept or UNCHECKED
    if not check.cpu.passed:
        raise broken(check)
    for result in found:
        if not result.passed and result.cases:
            tell("; ".join(verdict(result)))
    return check


def broken(check: BackendCheck) -> QwenctlError:
    """The failure of a build whose plain path does not compute what it should."""
    message, hint = verdict(check.cpu)
    return QwenctlError(message, hint, ExitCode.ENGINE_CRASHED)


def verdict(result: SubjectResult) -> tuple[str, str]:
    """What a failed subject means, and what can be done."""
    failure = result.failures[0]
    if result.subject.kind == "cpu":
        another = " (is it built for another processor?)" if "SIGILL" in failure.error else ""
        what = f"does not start on this machine: {failure.error}"
        if failure.case != STARTING:
            what = f"computes wrong results on this machine: {failure.why_not()}"
        return f"llama.cpp {what}{another}", build_command("CPU")
    if result.subject.kind == "extra":
        types = ", ".join(result.parts) or "extra buffer types"
        message = f"llama.cpp fails with {types} ({failure.why_not()}): not used, which may be slower"
        return message, f"to build it without this fault: {build_command('CPU')}"
    name = result.subject.name
    return f"{name} fails ({failure.why_not()}): only used where --device names it", _RUN_AGAIN


def failed_devices(check: BackendCheck, devices: Sequence[GgmlDevice]) -> frozenset[str]:
    """The names of those of `devices` that have failed the check."""
    results = ((one.name, check.devices.get(key)) for key, one in _checkable(devices).items())
    return frozenset(name for name, result in results if result is not None and not result.passed)


def _checkable(devices: Sequence[GgmlDevice]) -> dict[str, GgmlDevice]:
    """Devices by key, without those of RPC servers, which are another machine's."""
    return {device_key(one): one for one in devices if one.kind in _CHECKED_KINDS and one.backend != "RPC"}


def _merged(
    kept: BackendCheck | None, found: Mapping[Subject, SubjectResult], devices: Mapping[str, SubjectResult]
) -> BackendCheck:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if kept is not None:
        return replace(kept, devices={**kept.devices, **devices}, checked=now)
    extra = found.get(EXTRA)
    return BackendCheck(found[PLAIN], extra if extra and extra.cases else None, devices, now)


def _keep(check: BackendCheck) -> None:
    path = _path(check_key())
    if path is not None:
        with suppress(OSError):
            write_object(path, as_json(check))


def _path(key: str) -> Path | None:
    try:
        return cache_folder() / f"backend-{key}.json"
    except QwenctlError:
        return None
