"""Fails or shortens one system call of a command: `python -m tests.faults.system_calls --count 200`.

A shortened or interrupted read or write changes nothing: the command ends well. A failed call ends the command with an
error of one line and a documented exit code, or it is of no consequence. Then the same command must end well. It needs
a C compiler.
"""

from __future__ import annotations

import errno
import random
import re
import subprocess
from pathlib import Path

from qwenctl.errors import ExitCode
from tests.support.fault_trials import Subject, run_trials

SOURCE = Path(__file__).with_name("failing_calls.c")
DISK = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
# What may happen to each call, 0 for one that is shortened, and how often it is called at most until then.
CALLS: dict[str, tuple[tuple[int, ...], int]] = {
    "write": ((0, 0, 0, errno.EINTR, *DISK), 12),
    "pwrite": ((0, 0, 0, errno.EINTR, *DISK), 60),
    "read": ((0, 0, errno.EINTR, errno.EIO), 40),
    "pread": ((0, 0, errno.EINTR, errno.EIO), 60),
    "fsync": (DISK, 8),
    "ftruncate": (DISK, 8),
    "rename": (DISK, 6),
    "link": ((errno.EMLINK, errno.EPERM, *DISK), 4),
    "unlink": ((errno.EIO, errno.EPERM), 8),
    "mkdir": (DISK, 10),
    "open": ((errno.EMFILE, errno.EACCES, *DISK), 60),
    "close": ((errno.EIO, errno.EDQUOT), 40),
    "mmap": ((errno.ENOMEM, errno.ENODEV), 6),
    "flock": ((errno.ENOLCK, errno.EINTR), 4),
}
HARMLESS = (0, errno.EINTR)
CODES = {*ExitCode} - {ExitCode.BUG, ExitCode.USAGE, ExitCode.ENGINE_CRASHED}


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def fail_once(subject: Subject, number: int) -> str:
    """Fail one call of the subject, chosen by the number of the trial, and let it finish."""
    chance, happened = random.Random(number), subject.place.folder.parent / "happened"
    call = chance.choice([*CALLS])
    errors, limit = CALLS[call]
    error, at = chance.choice(errors), chance.randint(1, limit)
    happened.unlink(missing_ok=True)
    code, stderr = _start(subject, call, error, at, happened)
    while at > 1 and not happened.exists():  # it has fewer calls
        subject.place.clear()
        at = chance.randint(1, at - 1)
        code, stderr = _start(subject, call, error, at, happened)
    what = f"{call} {at} {errno.errorcode[error] if error else 'shortened'}"
    if code == 0:
        subject.check()
    else:
        assert error not in HARMLESS, f"{what}: {stderr}"
        assert code in CODES, f"{what}: ends with {code}: {stderr}"
        assert re.fullmatch(r"qwenctl: error: .*\n(  hint: .*\n)?", stderr), f"{what}: {stderr}"
    try:
        subject.finish()
    except AssertionError as failure:
        raise AssertionError(f"{what}, {code} {stderr.strip()}: {failure}") from failure
    return f"{subject.name}: {call if happened.exists() else f'no {call} at all'}, exit {code}"


def _start(subject: Subject, call: str, error: int, at: int, happened: Path) -> tuple[int, str]:
    """Run the subject with a fault; its exit code and its errors."""
    return subject.start(
        LD_FAULT_CALL=call, LD_FAULT_NUMBER=str(at), LD_FAULT_ERROR=str(error),
        LD_FAULT_FOLDER=str(happened.parent), LD_FAULT_FILE=str(happened),
    ).wait()  # fmt: skip


if __name__ == "__main__":
    run_trials(__doc__, 200, fail_once, build)
