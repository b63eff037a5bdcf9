"""A signal while a command starts: it ends without a word of Python's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MOMENTS = 60 if os.environ.get("FULL_COUNTS") else 12
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "help": (["--help"], {}),
    "ls": (["ls"], {}),
    "chat": (["chat", "-m", "missing.gguf", "hi"], {}),
    "completion": (
        [],
        {"_QWENCTL_COMPLETE": "complete_bash", "COMP_WORDS": "qwenctl chat -m ", "COMP_CWORD": "3"},
    ),
}
# As the installed script, and a line when the program's first one has run: before it the interpreter alone decides, see
# docs/reference/exit-codes.md.
SCRIPT = "import sys; from qwenctl.__main__ import main; print(flush=True); sys.argv[0] = 'qwenctl'; sys.exit(main())"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_the_first_second_is_silent(number: signal.Signals, code: int, name: str, tmp_path: Path) -> None:
    arguments, environment = COMMANDS[name]
    for moment in range(MOMENTS):
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "HF_HOME": str(tmp_path), **environment},
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moment / MOMENTS)
            os.killpg(process.pid, number)  # as a terminal does: to the program and its children
            _, stderr = process.communicate(timeout=60)
        assert b"Traceback" not in stderr, stderr.decode()
        assert process.returncode in (code, -number, 0, 66), stderr.decode()  # 0 and 66: the command had ended before
