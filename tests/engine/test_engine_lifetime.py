"""No engine outlives its program, and none knows the program's secrets."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from qwenctl.engine.client import Engine

# Starts an engine, does something with it, and prints its process id when that has begun.
PROGRAM = """
import sys, time
from pathlib import Path
from qwenctl.engine.client import Engine
from tests.support.engines import LONG, SETTINGS
from qwenctl.protocol.messages import Generate, Message, Sampling
when, model, logs = sys.argv[1:]
engine = Engine.start(Path(logs))
tell = lambda: print(engine.pid, flush=True)
if when == "start":
    tell()
events = engine.load(Path(model), SETTINGS)
if when == "load":
    next(events)
    tell()
list(events)
if when == "prefill":
    next(engine.generate(LONG))
    tell()
if when == "decode":
    request = Generate((Message("user", "Go."),), False, Sampling(seed=1), grammar="root ::= [a-z]+ [A-Z]{9}")
    for number, event in enumerate(engine.generate(request)):
        if number == 5:
            tell()
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="by a service of Linux")
@pytest.mark.parametrize("when", ["start", "load", "prefill", "decode", "idle"])
def test_engine_ends_with_a_killed_program(when: str, toy_gguf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, when, str(toy_gguf), str(tmp_path)]
    if when == "idle":
        command[2] = PROGRAM.replace("time.sleep(600)", "tell(); time.sleep(600)")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        engine = psutil.Process(int(program.stdout.readline()))
        family = [engine, *engine.children(recursive=True)]
        program.send_signal(signal.SIGKILL)
        program.wait()
        _, alive = psutil.wait_procs([one for one in family if is_running(one)], timeout=1)
        assert [one for one in alive if is_running(one)] == []


def is_running(process: psutil.Process) -> bool:
    """Whether the process runs: one that nobody has waited for yet has ended, too."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_engine_and_its_template_know_no_secrets(
    toy_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.engines import SETTINGS

    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "very-secret")
    with Engine.start(tmp_path) as engine:
        list(engine.load(toy_gguf, SETTINGS))
        process = psutil.Process(engine.pid)
        family = [process, *process.children(recursive=True)]
        assert len(family) == 2
        for one in family:
            assert "very-secret" not in one.environ().values()
            assert one.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        started = time.monotonic()
    psutil.wait_procs(family, timeout=30)
    assert not any(map(is_running, family)), time.monotonic() - started
