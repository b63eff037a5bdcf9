"""Runs the child process that checks, and listens to it.

Subjects come in, a `SubjectResult` for each goes out. A child that crashes, hangs or cannot start is a failed check of
what it was at, and another child goes on with the rest.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any, cast

from qwenctl.backend_check.results import PLAIN, STARTING, CaseResult, Subject, SubjectResult
from qwenctl.machine.cpu import usable_cores
from qwenctl.machine.llama_process import ending, llama_environment

WORKER: Sequence[str] = (sys.executable, "-P", "-m", "qwenctl.backend_check.check_worker")
# A step that takes longer hangs. A driver may compile its kernels for minutes the first time.
_CPU_SECONDS, _DEVICE_SECONDS = 60.0, 900.0
_WAITING_ROUNDS = 1000  # few: who waits for the check would wait much longer beside a busy program
_THREADS = 2  # more than one, for kernels divide the work; not more, for the model is small
_NO_MEANING = "unexpected output"

Show = Callable[[str], None]


class CheckImpossible(Exception):
    """The check cannot be done, for a reason that is not llama.cpp's: a full disk, for example."""


def run_checks(
    subjects: Sequence[Subject], show: Show, worker: Sequence[str] = WORKER, cpu_seconds: float = _CPU_SECONDS
) -> dict[Subject, SubjectResult]:
    """Check these subjects; if the CPU's plain path fails, no others.

    `show` is told what is being checked; `worker` is the command of the child, and `cpu_seconds` the time that it has
    for one step on a CPU. Raises CheckImpossible.
    """
    with _folder() as folder:
        results: dict[Subject, SubjectResult] = {}
        remaining = list(subjects)
        while remaining:
            asked = {"subjects": [asdict(one) for one in remaining], "threads": _threads(), "folder": folder}
            for result in _one_child(worker, asked, _Report(list(remaining)), show, cpu_seconds):
                results[result.subject] = result
                remaining.remove(result.subject)
                if result.subject == PLAIN and not result.passed:
                    return results
        return results


@contextmanager
def _folder() -> Iterator[str]:
    """A folder for the model; not the child's own, which a crash would leave behind."""
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
    """What one child has reported so far, of the subjects that it has `left`."""

    left: list[Subject]
    case: str = STARTING
    cases: list[CaseResult] = field(default_factory=list)
    parts: tuple[str, ...] = ()

    def failed(self, error: str) -> SubjectResult:
        """The result of the subject that the child was at when it ended."""
        return SubjectResult(self.left[0], (*self.cases, CaseResult(self.case, error=error)), self.parts)

    def take(self, event: Mapping[str, Any]) -> SubjectResult | None:
        """The result of a subject that is finished with this event. Raises ValueError for what is no event."""
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


def _one_child(
    worker: Sequence[str], asked: Mapping[str, Any], report: _Report, show: Show, cpu_seconds: float
) -> Iterator[SubjectResult]:
    """The results of as many subjects as one child process comes through with, and at least of one."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                worker,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=llama_environment(_WAITING_ROUNDS),
            )
        except OSError as error:
            yield report.failed(str(error))
            return
        try:
            _ask(process, asked)
            for event in _events(process, report, cpu_seconds):
                finished = report.take(event)
                if finished is not None:
                    yield finished
                if not report.left:
                    return
                show(f"checking llama.cpp: {report.left[0].title}, {report.case}")
            yield report.failed(_ending(process, log))
        except ValueError:
            yield report.failed(_NO_MEANING)
        finally:
            process.kill()
            process.communicate()


def _ask(process: subprocess.Popen[bytes], asked: Mapping[str, Any]) -> None:
    requests = cast("IO[bytes]", process.stdin)
    with suppress(BrokenPipeError):  # how it has ended is told where its events are read
        requests.write(json.dumps(asked).encode() + b"\n")
        requests.flush()


def _events(process: subprocess.Popen[bytes], report: _Report, cpu_seconds: float) -> Iterator[Mapping[str, Any]]:
    """What the child says, until it ends or hangs. Raises ValueError for what is no JSON."""
    stream, heard = cast("IO[bytes]", process.stdout).fileno(), b""
    while True:
        end = time.monotonic() + (_DEVICE_SECONDS if report.left[0].kind == "device" else cpu_seconds)
        while b"\n" not in heard:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            more = os.read(stream, 1 << 16) if ready else b""
            if not more:
                return
            heard += more
        line, _, heard = heard.partition(b"\n")
        yield json.loads(line)


def _ending(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """How the child has ended, or that it has not."""
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "no result in time: it hangs"
    log.seek(0)
    return ending(code, log.read().decode("utf-8", "replace"))
