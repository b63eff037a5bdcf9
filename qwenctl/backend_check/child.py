"""Runs the child process that checks, and reads its events.

Subjects come in, a `SubjectResult` for each goes out. A child that crashes, hangs or cannot start is a failed check of
the subject it was working on; another child continues with the rest.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any, cast

from qwenctl.backend_check.results import PLAIN, STARTING, CaseResult, Subject, SubjectResult
from qwenctl.child_process import child_command
from qwenctl.machine.cpu import usable_cores
from qwenctl.machine.llama_process import describe_exit, llama_environment

# A step that takes longer counts as hanging. On first use a driver may compile its kernels for minutes.
_CPU_SECONDS, _DEVICE_SECONDS = 60.0, 900.0
_SPIN_ROUNDS = 1000  # short spinning, so that the check stays fast next to a busy program
_THREADS = 2  # kernels must divide their work, but the model is too small for more
_INVALID_EVENT = "unexpected output"

Show = Callable[[str], None]


class CheckImpossible(Exception):
    """The check cannot be done for a reason other than llama.cpp, such as a full disk."""


def run_checks(
    subjects: Sequence[Subject], show: Show, worker: Sequence[str] = (), cpu_seconds: float = _CPU_SECONDS
) -> dict[Subject, SubjectResult]:
    """Check these subjects; if the CPU's plain path fails, no others.

    `show` receives what is being checked; `worker` is the command of another child than the usual one, and
    `cpu_seconds` the time limit of one step on a CPU. Raises CheckImpossible.
    """
    with _folder() as folder:
        results: dict[Subject, SubjectResult] = {}
        remaining = list(subjects)
        while remaining:
            request = {"subjects": [asdict(subject) for subject in remaining], "threads": _threads(), "folder": folder}
            for result in _run_child(worker, request, _Report(list(remaining)), show, cpu_seconds):
                results[result.subject] = result
                remaining.remove(result.subject)
                if result.subject == PLAIN and not result.passed:
                    return results
        return results


@contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder for the model; made here, because a crash of the child would leave its own behind."""
    try:
        folder = tempfile.mkdtemp(prefix="qwenctl-check-")
    except OSError as error:
        raise CheckImpossible(str(error)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _threads() -> int:
    return min(_THREADS, usable_cores())


@dataclass
class _Report:
    """What one child has reported so far, of the subjects `left`."""

    left: list[Subject]
    case: str = STARTING
    cases: list[CaseResult] = field(default_factory=list)
    parts: tuple[str, ...] = ()

    def fail_current(self, error: str) -> SubjectResult:
        """The result of the subject on which the child ended."""
        return SubjectResult(self.left[0], (*self.cases, CaseResult(self.case, error=error)), self.parts)

    def handle_event(self, event: Mapping[str, Any]) -> SubjectResult | None:
        """Add an event; return the result of a subject that it finishes. Raises ValueError for an invalid event."""
        try:
            if "case" in event:
                self.case = str(event["case"])
            elif "parts" in event:
                self.parts = tuple(map(str, event["parts"]))
            elif "impossible" in event:
                raise CheckImpossible(str(event["impossible"]))
            elif "result" in event:
                self.cases.append(CaseResult(**event["result"]))
            else:
                finished = SubjectResult(Subject(**event["done"]), tuple(self.cases), self.parts)
                self.left.remove(finished.subject)
                self.cases, self.case, self.parts = [], STARTING, ()
                return finished
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        return None


def _run_child(
    worker: Sequence[str], request: Mapping[str, Any], report: _Report, show: Show, cpu_seconds: float
) -> Iterator[SubjectResult]:
    """Run one child; yield the results of as many subjects as it survives, but at least of one."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                worker or child_command("qwenctl.backend_check.check_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=llama_environment(_SPIN_ROUNDS),
            )
        except OSError as error:
            yield report.fail_current(str(error))
            return
        try:
            _send_request(process, request)
            for event in _events(process, report, cpu_seconds):
                finished = report.handle_event(event)
                if finished is not None:
                    yield finished
                if not report.left:
                    return
                show(f"checking llama.cpp: {report.left[0].title}, {report.case}")
            yield report.fail_current(_describe_end(process, log))
        except ValueError:
            yield report.fail_current(_INVALID_EVENT)
        finally:
            process.kill()
            process.communicate()


def _send_request(process: subprocess.Popen[bytes], request: Mapping[str, Any]) -> None:
    requests = cast("IO[bytes]", process.stdin)
    with suppress(BrokenPipeError):  # the reader of its events reports how it ended
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()


def _events(process: subprocess.Popen[bytes], report: _Report, cpu_seconds: float) -> Iterator[Mapping[str, Any]]:
    """Yield the child's events until it ends or hangs. Raises ValueError for invalid JSON."""
    stream, buffer = cast("IO[bytes]", process.stdout).fileno(), b""
    while True:
        # The deadline starts anew for each event.
        deadline = time.monotonic() + (_DEVICE_SECONDS if report.left[0].kind == "device" else cpu_seconds)
        while b"\n" not in buffer:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(stream, 1 << 16) if ready else b""
            if not more:
                return
            buffer += more
        line, _, buffer = buffer.partition(b"\n")
        yield json.loads(line)


def _describe_end(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """How the child ended, or that it has not."""
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "no result in time: it hangs"
    log.seek(0)
    return describe_exit(code, log.read().decode("utf-8", "replace"))
