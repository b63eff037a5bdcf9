"""Fails or shortens one system call of a command: `python -m tests.faults.system_calls --count 200`.

A shortened write changes nothing: the command ends well. A failed call ends the command with an error of one line and a
documented exit code, or it is of no consequence. Then the same command must end well. It needs a C compiler.
"""

from __future__ import annotations

import errno
import random
import re
import subprocess
from pathlib import Path

from tests.support.fault_trials import Subject, run_trials

SOURCE = Path(__file__).with_name("failing_calls.c")
CALLS = ("write", "pwrite", "fsync", "ftruncate", "rename")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def fail_once(subjects: list[Subject], number: int, folder: Path) -> str:
    """Fail one call of a subject, chosen by the number of the trial, and let it finish."""
    chance, subject = random.Random(number), subjects[number % len(subjects)]
    call = chance.choice(CALLS)
    error = 0 if call in ("write", "pwrite") and chance.random() < 0.5 else chance.choice(ERRORS)
    limit = 60 if call == "pwrite" else 8
    place, happened = folder / "failed", folder / "happened"
    place.mkdir()
    process = subject.start(
        place, LD_PRELOAD=str(build(folder)), LD_FAULT_CALL=call, LD_FAULT_NUMBER=str(chance.randint(1, limit)),
        LD_FAULT_ERROR=str(error), LD_FAULT_FOLDER=str(place), LD_FAULT_FILE=str(happened),
    )  # fmt: skip
    _, stderr = process.communicate(timeout=120)
    what = f"{subject.name}: {call} {errno.errorcode[error] if error else 'shortened'}"
    if process.returncode == 0:
        subject.check(place)
    else:
        assert error, f"{what}: {stderr}"
        assert process.returncode in (73, 74), f"{what}: ends with {process.returncode}: {stderr}"
        assert re.fullmatch(r"qwenctl: error: .*\n(  hint: .*\n)?", stderr), f"{what}: {stderr}"
    subject.finish(place)
    return f"{what if happened.exists() else 'no such call'}, exit {process.returncode}"


if __name__ == "__main__":
    run_trials(__doc__, 200, fail_once)
