"""The child process that computes with llama.cpp, so that a crash ends this process and no other.

`python -m qwenctl.backend_check.check_worker` reads a line of JSON from standard input: the subjects to check, the
number of threads, and a folder for the model, which is made if it does not exist. It writes lines of JSON: the name of
each case before it, so that the program knows what was running if this process ends, the result after it, and a line at
the end of each subject. It exits when standard input closes.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from quantize.file_system import write_all
from qwenctl.backend_check.evaluation import (
    Context,
    NotComputed,
    Reference,
    compare,
    compute_reference,
    extra_buffer_types,
    make_cases,
)
from qwenctl.backend_check.results import PLAIN, CaseResult, Subject
from qwenctl.backend_check.tiny_model import make_tiny_model
from qwenctl.machine.llama_process import errors_end_the_process

_LOADING = "loading"


def _end_with_the_program(folder: Path) -> None:
    """End this process as soon as the program exits, whatever libllama is doing, and delete the model."""
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


class _Reporter:
    """Writes events to the original standard output; libraries that print to it write to the log from now on."""

    def __init__(self) -> None:
        self._events = os.dup(1)
        os.dup2(2, 1)

    def send(self, **fields: Any) -> None:
        """Write one event."""
        write_all(self._events, json.dumps(fields).encode() + b"\n")


def check(subjects: Sequence[Subject], threads: int, folder: Path, reporter: _Reporter) -> None:
    """Check these subjects, in this order."""
    reporter.send(case=_LOADING)
    try:
        model = make_tiny_model(folder)
    except Exception as error:  # noqa: BLE001 - whatever it is, usually a full disk, it says nothing about llama.cpp
        reporter.send(impossible=str(error) or type(error).__name__)
        return
    llama.llama_backend_init()
    try:
        with Context(model, PLAIN, threads) as context:
            expected = compute_reference(context)
    except NotComputed as error:
        reporter.send(result=asdict(CaseResult(_LOADING, error=str(error))))
        reporter.send(done=asdict(subjects[0]))
        return
    for subject in subjects:
        _check(model, subject, expected, threads, reporter)


def _check(model: Path, subject: Subject, expected: Reference, threads: int, reporter: _Reporter) -> None:
    reporter.send(case=_LOADING)
    parts = extra_buffer_types() if subject.kind == "extra" else ()
    reporter.send(parts=parts)
    if subject.kind != "extra" or parts:
        try:
            with Context(model, subject, threads) as context:
                for case in make_cases(subject):
                    reporter.send(case=case.name)
                    reporter.send(result=asdict(compare(case, context, expected)))
        except NotComputed as error:
            reporter.send(result=asdict(CaseResult(_LOADING, error=str(error))))
    reporter.send(done=asdict(subject))


def main() -> None:
    """Handle the request in the first line of standard input."""
    with errors_end_the_process():
        request = json.loads(sys.stdin.buffer.readline())
        subjects, folder = [Subject(**fields) for fields in request["subjects"]], Path(request["folder"])
        threading.Thread(target=_end_with_the_program, args=(folder,), daemon=True).start()
        log = llama.llama_log_callback(lambda _level, text, _data: write_all(2, text))
        llama.llama_log_set(log, ctypes.c_void_p())
        check(subjects, int(request["threads"]), folder, _Reporter())
    os._exit(0)  # the other thread waits for standard input, and drivers may hang on exit


if __name__ == "__main__":
    main()
