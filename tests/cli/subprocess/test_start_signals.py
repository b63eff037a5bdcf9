"""A signal while a command starts: it ends without a word of Python's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "help": (["--help"], {}),
    "ls": (["ls"], {}),
    "plan": (["plan", "missing.gguf"], {}),
    "chat": (["chat", "-m", "missing.gguf", "hi"], {}),
    "completion": (
        [],
        {"_QWENCTL_COMPLETE": "complete_bash", "COMP_WORDS": "qwenctl chat -m ", "COMP_CWORD": "3"},
    ),
}
# Before the first line of the program runs, the interpreter alone decides; this says that the program has begun.
BEGUN = (
    "import sys, runpy; print(flush=True); sys.argv[0] = 'qwenctl'; runpy.run_module('qwenctl', run_name='__main__')"
)


@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.3, 0.6])
@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_at_the_start_is_silent(number: signal.Signals, code: int, name: str, delay_s: float) -> None:
    arguments, environment = COMMANDS[name]
    with subprocess.Popen(
        [sys.executable, "-c", BEGUN, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    # A command may have ended before, and the interpreter may not have come to the program's first line.
    assert b"qwenctl/" not in stderr or b"Traceback" not in stderr, stderr.decode()
    assert process.returncode in (code, 0, 66, -number) or b"Traceback" in stderr
