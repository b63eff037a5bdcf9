"""What the child processes of libllama have in common: their environment, how they end, and how that is told.

Nothing is started here.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# GNU's OpenMP has its threads wait in a loop for each other before they sleep. Its own 300,000 rounds are milliseconds
# at each of a thousand barriers a token, which a thread loses whenever another program has the processor of one that it
# waits for. To sleep at once costs more than that where a sleeping processor takes long to wake, as in a virtual
# machine. So many rounds are 0.1 to 0.5 ms: longer than the threads of one program are apart, and much shorter than the
# turn of another program (`make bench ARGS=threads`).
WAITING_ROUNDS = 10_000
# What ggml prints before it aborts, without the folder in which it was compiled.
_ASSERTION = re.compile(r"([\w-]+\.\w+:\d+: (?:GGML_ASSERT|GGML_ABORT|fatal error).*)")
_BUILD_FOLDER = re.compile(r"^/\S*/(?=[\w-]+\.\w+:\d)")


def llama_environment(rounds: int = WAITING_ROUNDS) -> Mapping[str, str]:
    """This process's own variables, and those that libllama should find unless the user has set them.

    To be given to a process before it starts: OpenMP reads its variables when it is loaded. `rounds` is how long its
    threads wait for each other in a loop before they sleep.
    """
    chosen = any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    waiting = {} if chosen else {"GOMP_SPINCOUNT": str(rounds)}
    return {**waiting, **os.environ, "GGML_NO_BACKTRACE": "1"}  # a debugger that attaches can hang for minutes


@contextmanager
def errors_end_the_process() -> Iterator[None]:
    """End this process where an error of Python's leaves the block; the traceback goes to standard error.

    Not by way of the interpreter's end: another thread reads standard input, and Python aborts the process when it
    cannot close that. The error would be taken for one of libllama's.
    """
    try:
        yield
    except BaseException:  # noqa: BLE001 - whatever it is, it is told as itself
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _assertion(log: str) -> str:
    """The last assertion of ggml that failed, by a process's log; empty if there is none."""
    return next(reversed(_ASSERTION.findall(log)), "")


def _last_line(log: str) -> str:
    """The last line of a process's log, without the folder in which ggml was compiled."""
    lines = log.strip().splitlines()
    return _BUILD_FOLDER.sub("", lines[-1].strip()) if lines else ""


def ending(code: int, log: str) -> str:
    """How a process ended, by its exit code (minus the signal, if it was one) and its log: in a few words."""
    if code < 0:
        return ": ".join(filter(None, [signal.Signals(-code).name, _assertion(log)]))
    return _last_line(log) or f"exit code {code}"
