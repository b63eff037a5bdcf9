"""The in-process command runner restores the state of the process and gives the output of a real process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support import cli_runner, command_line, preloaded_cli


def state() -> tuple[object, ...]:
    """Everything that a command could leave changed in this process."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    streams = [sys.stdin, sys.stdout, sys.stderr]
    files = [(status.st_dev, status.st_ino) for status in map(os.fstat, range(3))]
    return handlers, streams, files, dict(os.environ), os.getcwd(), list(sys.argv), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts descriptors")
def test_runner_restores_process_state(tmp_path: Path) -> None:
    cli_runner.run("--version")  # modules imported by the first run stay loaded
    before = state()
    cli_runner.run("config", "show", folder=tmp_path, QWENCTL_THREADS="3")
    cli_runner.run("chat", "-m", "none.gguf", stdin=b"")
    assert state() == before


@pytest.mark.parametrize(
    "arguments",
    [["--version"], [], ["chta"], ["chat", "--help"], ["config", "path"], ["chat", "-m", "none.gguf", "--json"]],
)
def test_runner_output_equals_process_output(arguments: list[str]) -> None:
    done, process = cli_runner.run(*arguments), command_line.run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (process.returncode, process.stdout, process.stderr)


@pytest.mark.parametrize("arguments", [[], ["chta"], ["config", "show", "chat"], ["ls", "--json"], ["chat", "-m", "x"]])
def test_preloaded_program_gives_the_output_of_a_new_process(arguments: list[str]) -> None:
    done = preloaded_cli.run(arguments, {**os.environ, "QWENCTL_THREADS": "3"})
    process = command_line.run(*arguments, stdin=None, QWENCTL_THREADS="3")
    assert (done.returncode, done.stdout, done.stderr) == (
        process.returncode, process.stdout.decode(), process.stderr.decode()
    )  # fmt: skip


def test_preloaded_program_is_a_process_with_its_own_environment(tmp_path: Path) -> None:
    first = preloaded_cli.run(["config", "path"], {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)})
    assert str(tmp_path) in first.stdout
    assert str(tmp_path) not in preloaded_cli.run(["config", "path"], os.environ).stdout


def test_runner_uses_the_given_folder_and_variables(tmp_path: Path) -> None:
    (tmp_path / "qwenctl.toml").write_text("threads = 3\n")
    shown = cli_runner.run("config", "show", "chat", folder=tmp_path, QWENCTL_CHAT_SEED="7").stdout.decode()
    assert "\nthreads = 3\n" in shown
    assert "\nseed = 7\n" in shown
