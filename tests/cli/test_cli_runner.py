"""The runner of command lines leaves the process of the tests as it was, and gives what a process would."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support import cli_runner, command_line


def state() -> tuple[object, ...]:
    """All that a command could leave behind."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    streams = [sys.stdin, sys.stdout, sys.stderr]
    files = [(found.st_dev, found.st_ino) for found in map(os.fstat, range(3))]
    return handlers, streams, files, dict(os.environ), os.getcwd(), list(sys.argv), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts descriptors")
def test_nothing_is_left_behind(tmp_path: Path) -> None:
    cli_runner.run("--version")  # what is imported the first time stays
    before = state()
    cli_runner.run("config", "show", folder=tmp_path, QWENCTL_THREADS="3")
    cli_runner.run("chat", "-m", "none.gguf", stdin=b"")
    assert state() == before


@pytest.mark.parametrize(
    "arguments",
    [["--version"], [], ["chta"], ["chat", "--help"], ["config", "path"], ["chat", "-m", "none.gguf", "--json"]],
)
def test_it_gives_what_a_process_gives(arguments: list[str]) -> None:
    done, process = cli_runner.run(*arguments), command_line.run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (process.returncode, process.stdout, process.stderr)


def test_folder_and_variables_are_those_given(tmp_path: Path) -> None:
    (tmp_path / "qwenctl.toml").write_text("threads = 3\n")
    shown = cli_runner.run("config", "show", "chat", folder=tmp_path, QWENCTL_CHAT_SEED="7").stdout.decode()
    assert "\nthreads = 3\n" in shown
    assert "\nseed = 7\n" in shown
