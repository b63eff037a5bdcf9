"""What all child processes with libllama share: their environment, how they exit, and how that is described.

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

from qwenctl.child_process import clean_environment

# Before GNU's OpenMP threads sleep, they spin while they wait for each other. The default of 300,000 rounds is
# milliseconds at each of a thousand barriers per token, lost whenever another program occupies the CPU of a thread
# that others wait for. Sleeping at once is even worse where a sleeping CPU wakes slowly, as in a virtual machine.
# This many rounds take 0.1 to 0.5 ms: longer than the threads of one program are apart, and much shorter than
# another program's time slice (`make bench ARGS=threads`).
SPIN_ROUNDS = 10_000
# What ggml prints before it aborts, without the folder it was compiled in.
_ASSERTION = re.compile(r"([\w-]+\.\w+:\d+: (?:GGML_ASSERT|GGML_ABORT|fatal error).*)")
_BUILD_FOLDER = re.compile(r"^/\S*/(?=[\w-]+\.\w+:\d)")


def llama_environment(rounds: int = SPIN_ROUNDS) -> Mapping[str, str]:
    """The environment for a process with libllama: without secrets, and with defaults that the user may override.

    Pass it when the process is started: OpenMP reads its variables when it is loaded. `rounds` is how long its threads
    spin before they sleep.
    """
    is_set = any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    defaults = {} if is_set else {"GOMP_SPINCOUNT": str(rounds)}
    # A debugger that attaches, as ggml would have it, can hang for minutes.
    return {**defaults, **clean_environment(), "GGML_NO_BACKTRACE": "1"}


@contextmanager
def errors_end_the_process() -> Iterator[None]:
    """If a Python exception leaves the block, print the traceback to standard error and end the process at once.

    A regular exit would not do: another thread reads standard input, and Python aborts the process when it cannot close
    that. The exception would then look like a crash of libllama.
    """
    try:
        yield
    except BaseException:  # noqa: BLE001 - whatever it is, its traceback is printed
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _last_assertion(log: str) -> str:
    """The last failed ggml assertion in a process's log; "" if there is none."""
    return next(reversed(_ASSERTION.findall(log)), "")


def _last_line(log: str) -> str:
    """The last line of a process's log, without the folder ggml was compiled in."""
    lines = log.strip().splitlines()
    return _BUILD_FOLDER.sub("", lines[-1].strip()) if lines else ""


def describe_exit(code: int, log: str) -> str:
    """How a process ended, in a few words, from its exit code (the negated signal, if one killed it) and its log."""
    if code < 0:
        return ": ".join(filter(None, [signal.Signals(-code).name, _last_assertion(log)]))
    return _last_line(log) or f"exit code {code}"
