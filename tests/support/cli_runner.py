"""The command line run in the process of the test, which takes a tenth of the time of a new process.

Tests of signals, terminals, closed streams or limits need a new process (`command_line.run`), and so does the Hub,
whose address and cache huggingface_hub reads once. Engines and probes are children of the test's process here.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from unittest.mock import patch

from qwenctl.cli import main


@dataclass(frozen=True)
class Result:
    """The output of a command line, and its exit code."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(*arguments: str, stdin: bytes = b"hi", folder: Path | None = None, **environment: str) -> Result:
    """Run a command line in `folder` with extra environment variables; none of its streams is a terminal."""
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        for block in (_streams(given, out, err), _signals(), patch.object(sys, "argv", ["qwenctl", *arguments])):
            stack.enter_context(block)
        stack.enter_context(chdir(folder or Path.cwd()))
        stack.enter_context(patch.dict(os.environ, environment))  # which puts everything in it back
        code = main(arguments)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return Result(code, _content(out), _content(err))


def outcome(*arguments: str, stdin: bytes = b"hi") -> tuple[str, str, int]:
    """The error line, its hint and the exit code of a command; asserts that nothing else was printed."""
    done = run(*arguments, stdin=stdin)
    assert done.stdout == b""
    found = re.fullmatch(r"qwenctl: error: (.*)\n(?:  hint: (.*)\n)?", done.stderr.decode())
    assert found, done.stderr.decode()
    return found.group(1), found.group(2) or "", done.returncode


@contextmanager
def _streams(*files: IO[bytes]) -> Iterator[None]:
    """Inside the context these are the standard streams of Python and of its child processes."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(number) for number in range(3)]
    try:
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        with (
            open(0, encoding="utf-8", closefd=False) as into,
            open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as out,
            open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1) as err,
            patch.multiple(sys, stdin=into, stdout=out, stderr=err),
        ):
            yield
    finally:
        for number, descriptor in enumerate(saved):
            os.dup2(descriptor, number)
            os.close(descriptor)


@contextmanager
def _signals() -> Iterator[None]:
    """Inside the context signals have their default handlers; the previous handlers are restored at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
